_base_ = [
    '../../../_base_/default_runtime.py',
    '../../../_base_/datasets/digits.py',
    '../../../_base_/schedules/digits_30e.py',
    '../../../_base_/pairs/r20_r8_digits.py',
    '../../../_base_/methods/cakd_logit_feature.py',
]
_base_.distiller.distill_losses.loss_cakd.update(gamma=2.0)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
