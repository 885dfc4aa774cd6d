# The control of together: random classes, and random clusters of a class.
_base_ = [
    '../../../_base_/tasks/r20_r8_cifar10-mini.py',
    '../../../_base_/methods/cakd_logit_feature.py',
]
model = dict(distiller=_base_.distiller.to_dict())
cakd, feature = model['distiller']['distill_losses'].values()
shares, chance = dict(bcd=0.2, scd=0.6, wcd=0.2), dict(type='RandomScorer')
cakd.update(strong_classes=3, beta=2.0, gradient_shares=shares, scorer=chance)
feature.update(gradient_shares=shares, scorer=dict(type='ClassScorer', scorer=chance))
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
del cakd, feature, shares, chance
