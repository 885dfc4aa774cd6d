_base_ = './resnet8x4_cifar100.py'

model = dict(backbone=dict(depth=32))
