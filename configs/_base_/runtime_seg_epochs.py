# What segmentors of mmseg are trained with, where the schedule counts epochs.
_base_ = './default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(visualization=dict(_delete_=True, type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', name='visualizer')
