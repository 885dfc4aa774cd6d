# A teacher that has seen five times as many images as its students will.
_base_ = './resnet8_cifar10-16px.py'

model = dict(backbone=dict(depth=20))
train_dataloader = dict(dataset=dict(per_class=(0, 1000)))
train_cfg = dict(max_epochs=40, val_begin=36)
param_scheduler = dict(milestones=[25, 30, 35])
