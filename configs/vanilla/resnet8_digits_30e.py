_base_ = './resnet8_digits.py'

train_cfg = dict(max_epochs=30)
param_scheduler = dict(milestones=[19, 23, 26])
