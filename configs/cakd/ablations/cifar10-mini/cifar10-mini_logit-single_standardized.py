# Logit standardisation (arXiv 2403.01427), with the temperature and the factor 18 that
# its public code uses for DKD on resnet56 -> resnet20.
_base_ = [
    '../../../_base_/tasks/r20_r8_cifar10-mini.py',
    '../../../_base_/methods/cakd_logit_feature.py',
]
_base_.distiller.distill_losses.loss_cakd.update(gamma=2.0)
model = dict(distiller=_base_.distiller.to_dict())
model['distiller']['distill_losses']['loss_cakd'].update(
    standardize=True, tau=3.0, loss_weight=18.0
)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
