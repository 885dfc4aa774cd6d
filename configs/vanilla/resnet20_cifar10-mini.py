_base_ = './resnet8_cifar10-mini.py'

model = dict(backbone=dict(depth=20))
