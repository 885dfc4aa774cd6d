_base_ = '../_base_/tasks/tinyimagenet.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARWideResNet', depth=40, widen_factor=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=200, in_channels=128),
)
