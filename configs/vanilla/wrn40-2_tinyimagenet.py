_base_ = './wrn16-2_tinyimagenet.py'

model = dict(backbone=dict(depth=40))
