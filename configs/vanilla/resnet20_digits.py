# The teacher of the demo trains three times as long as its students.
_base_ = '../_base_/tasks/digits.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
train_cfg = dict(max_epochs=30)
param_scheduler = dict(milestones=[18, 27])
