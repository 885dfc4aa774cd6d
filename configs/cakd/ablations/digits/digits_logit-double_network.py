_base_ = [
    '../../../_base_/tasks/r20_r8_digits_30e.py',
    '../../../_base_/methods/cakd_logit_double.py',
]
_base_.distiller.distill_losses.loss_cakd.update(gamma=2.0)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
