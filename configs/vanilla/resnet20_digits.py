# The teacher of the demo trains three times as long as its students.
_base_ = './resnet8_digits.py'

model = dict(backbone=dict(depth=20))
train_cfg = dict(max_epochs=30)
param_scheduler = dict(milestones=[18, 27])
