# The control of strong-weight: random clusters.
_base_ = [
    '../../../_base_/tasks/r20_r8_cifar10-mini.py',
    '../../../_base_/methods/cakd_logit_feature.py',
]
_base_.distiller.distill_losses.loss_cakd.update(gamma=2.0)
model = dict(distiller=_base_.distiller.to_dict())
model['distiller']['distill_losses']['loss_feature'].update(
    beta=9.5, gamma=0.5, scorer=dict(type='RandomScorer')
)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
