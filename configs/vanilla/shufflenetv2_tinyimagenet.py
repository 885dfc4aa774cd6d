_base_ = './shufflenetv1_tinyimagenet.py'

model = dict(backbone=dict(type='CIFARShuffleNetV2'), head=dict(in_channels=1024))
