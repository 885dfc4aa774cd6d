# What segmentors of mmseg are trained with, whose schedules count iterations.
_base_ = './default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=8000),
    visualization=dict(_delete_=True, type='SegVisualizationHook'),
)
log_processor = dict(by_epoch=False)
visualizer = dict(type='SegLocalVisualizer', name='visualizer')
