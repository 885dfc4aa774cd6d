# As scenes_15e.py, with 8 slices a step.
_base_ = './scenes_15e.py'
auto_scale_lr = dict(base_batch_size=8)
