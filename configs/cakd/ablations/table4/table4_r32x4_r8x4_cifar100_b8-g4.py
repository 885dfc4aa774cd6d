_base_ = [
    '../../../_base_/tasks/r32x4_r8x4_cifar100.py',
    '../../../_base_/methods/cakd_logit_feature.py',
]
_base_.distiller.distill_losses.loss_cakd.update(gamma=8.0)
model = dict(distiller=_base_.distiller.to_dict())
model['distiller']['distill_losses']['loss_feature'].update(beta=8.0, gamma=4.0)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
