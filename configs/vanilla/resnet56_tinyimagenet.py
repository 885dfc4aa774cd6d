_base_ = './resnet20_tinyimagenet.py'

model = dict(backbone=dict(depth=56))
