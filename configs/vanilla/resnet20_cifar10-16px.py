_base_ = './resnet8_cifar10-16px.py'

model = dict(backbone=dict(depth=20))
train_cfg = dict(max_epochs=40, val_begin=36)
param_scheduler = dict(milestones=[25, 30, 35])
