# Three strong classes, clusters of a class, and set shares of both gradients.
_base_ = [
    '../../../_base_/tasks/r20_r8_cifar10-mini.py',
    '../../../_base_/methods/cakd_logit_feature.py',
]
model = dict(distiller=_base_.distiller.to_dict())
cakd, feature = model['distiller']['distill_losses'].values()
shares = dict(bcd=0.2, scd=0.6, wcd=0.2)
cakd.update(strong_classes=3, beta=2.0, gradient_shares=shares)
feature.update(scorer=dict(type='ClassScorer'), gradient_shares=shares)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
del cakd, feature, shares
