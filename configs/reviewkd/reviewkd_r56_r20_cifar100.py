_base_ = ['../_base_/tasks/r56_r20_cifar100.py', '../_base_/methods/reviewkd.py']
_base_.distiller.distill_losses.loss_review.update(loss_weight=0.6)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
