# The control of 3-classes-heavy: the label and two random classes are strong.
_base_ = [
    '../../../_base_/tasks/r20_r8_cifar10-mini.py',
    '../../../_base_/methods/cakd_logit_feature.py',
]
_base_.distiller.distill_losses.loss_cakd.update(gamma=2.0)
model = dict(distiller=_base_.distiller.to_dict())
model['distiller']['distill_losses']['loss_cakd'].update(
    strong_classes=3, beta=8.0, scorer=dict(type='RandomScorer')
)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
