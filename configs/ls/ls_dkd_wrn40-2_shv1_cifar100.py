# Not stated for this pair and data: numbers of r32x4_shv2.
_base_ = ['../_base_/tasks/wrn40-2_shv1_cifar100.py', '../_base_/methods/ls_dkd.py']
_base_.distiller.distill_losses.loss_dkd.update(tau=2.0, alpha=9.0, beta=72.0)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
