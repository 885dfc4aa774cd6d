_base_ = ['../_base_/tasks/wrn40-2_wrn16-2_cifar100.py', '../_base_/methods/ls_dkd.py']
_base_.distiller.distill_losses.loss_dkd.update(tau=2.0, alpha=12.0, beta=24.0)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
