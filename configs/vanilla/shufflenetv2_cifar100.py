_base_ = '../_base_/tasks/cifar100.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARShuffleNetV2'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=1024),
)
# The benchmarks train light nets with a fifth of the others' rate.
optim_wrapper = dict(optimizer=dict(lr=0.01))
