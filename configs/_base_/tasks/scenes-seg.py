_base_ = [
    '../default_runtime.py',
    '../datasets/digit_scenes_seg.py',
    '../schedules/scenes.py',
]
default_scope = 'mmseg'
visualizer = dict(type='mmseg.SegLocalVisualizer')
default_hooks = dict(visualization=dict(_delete_=True, type='SegVisualizationHook'))
