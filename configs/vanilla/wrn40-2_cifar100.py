_base_ = '../_base_/tasks/cifar100.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARWideResNet', depth=40, widen_factor=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=128),
)
