# Not stated for this pair and data: numbers of wrn40-2_wrn16-2 on CIFAR-100.
_base_ = ['../_base_/tasks/wrn40-2_wrn16-2_tinyimagenet.py', '../_base_/methods/dkd.py']
_base_.distiller.distill_losses.loss_dkd.update(tau=4.0, alpha=1.0, beta=6.0)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
