_base_ = [
    '../../../_base_/tasks/r56_r20_cifar100.py',
    '../../../_base_/methods/cakd_logit_feature.py',
]
_base_.distiller.distill_losses.loss_cakd.update(gamma=2.0)
model = dict(distiller=_base_.distiller.to_dict())
model['distiller']['balancer'].update(ratio=2.0)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
