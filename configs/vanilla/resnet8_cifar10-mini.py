_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/cifar10_mini.py',
    '../_base_/schedules/cifar10_mini.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
