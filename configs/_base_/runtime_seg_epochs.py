# As runtime_seg.py, where the schedule counts epochs.
_base_ = './runtime_seg.py'

default_hooks = dict(
    logger=dict(log_metric_by_epoch=True), checkpoint=dict(by_epoch=True, interval=1)
)
log_processor = dict(by_epoch=True)
