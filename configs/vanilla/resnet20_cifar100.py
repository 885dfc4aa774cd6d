_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cakd_240e.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=64),
)
