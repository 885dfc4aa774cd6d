_base_ = './resnet20_cifar100.py'

model = dict(
    backbone=dict(_delete_=True, type='CIFARWideResNet', depth=16, widen_factor=2),
    head=dict(in_channels=128),
)
