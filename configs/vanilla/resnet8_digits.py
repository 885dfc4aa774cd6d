_base_ = './resnet20_digits.py'

model = dict(backbone=dict(depth=8))
