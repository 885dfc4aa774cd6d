_base_ = './resnet20_cifar100.py'

model = dict(
    backbone=dict(_delete_=True, type='CIFARShuffleNetV1'),
    head=dict(in_channels=960),
)
# The benchmarks train light nets with a fifth of the others' rate.
optim_wrapper = dict(optimizer=dict(lr=0.01))
