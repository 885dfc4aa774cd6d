# As 3-classes, with the weight of SCD that the feature has.
_base_ = [
    '../../../_base_/tasks/r20_r8_cifar10-mini.py',
    '../../../_base_/methods/cakd_logit_feature.py',
]
_base_.distiller.distill_losses.loss_cakd.update(gamma=2.0)
model = dict(distiller=_base_.distiller.to_dict())
model['distiller']['distill_losses']['loss_cakd'].update(strong_classes=3, beta=8.0)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
