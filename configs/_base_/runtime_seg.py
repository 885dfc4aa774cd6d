# What segmentors of mmseg are trained with, whose schedules count iterations.
_base_ = './runtime_seg_epochs.py'

default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=8000),
)
log_processor = dict(by_epoch=False)
