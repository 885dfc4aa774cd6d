# What detectors of mmdet are trained with.
_base_ = './default_runtime.py'

default_scope = 'mmdet'
default_hooks = dict(visualization=dict(_delete_=True, type='DetVisualizationHook'))
# Images have many sizes, for each of which cuDNN would try its algorithms again.
env_cfg = dict(cudnn_benchmark=False)
visualizer = dict(type='DetLocalVisualizer', name='visualizer')
