_base_ = [
    '../default_runtime.py',
    '../datasets/digit_scenes_det.py',
    '../schedules/scenes.py',
]
default_scope = 'mmdet'
visualizer = dict(type='mmdet.DetLocalVisualizer')
default_hooks = dict(visualization=dict(_delete_=True, type='DetVisualizationHook'))
