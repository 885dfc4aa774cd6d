# A teacher that has seen five times as many images as its students will.
_base_ = '../_base_/tasks/cifar10-16px.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
train_dataloader = dict(dataset=dict(per_class=(0, 1000)))
train_cfg = dict(max_epochs=40, val_begin=36)
param_scheduler = dict(milestones=[25, 30, 35])
