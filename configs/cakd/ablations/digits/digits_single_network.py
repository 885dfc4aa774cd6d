_base_ = [
    '../../../_base_/tasks/r20_r8_digits_30e.py',
    '../../../_base_/methods/cakd_feature.py',
]
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
