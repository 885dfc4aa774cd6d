# mmdet's 12 epochs, for batches of 16.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

train_cfg = dict(type='ResumableTrainLoop')
