_base_ = ['../_base_/tasks/r32x4_r8x4_cifar100.py', '../_base_/methods/ls_dkd.py']
_base_.distiller.distill_losses.loss_dkd.update(tau=2.0, alpha=9.0, beta=72.0)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
