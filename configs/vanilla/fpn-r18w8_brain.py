_base_ = ['../_base_/tasks/brain.py', '../_base_/nets/fpn_r18w8.py']

model = dict(decode_head=dict(num_classes=4, loss_decode=dict(type='CrossEntropyLoss')))
