# Long enough for the small student to level off (see docs/feature_study.md).
_base_ = './digits.py'

param_scheduler = dict(milestones=[19, 23, 26])
train_cfg = dict(max_epochs=30)
