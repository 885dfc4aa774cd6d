_base_ = './resnet8x4_tinyimagenet.py'

model = dict(backbone=dict(depth=32))
