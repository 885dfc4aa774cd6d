_base_ = [
    '../_base_/tasks/wrn40-2_wrn16-2_cifar100.py',
    '../_base_/methods/reviewkd.py',
]
_base_.distiller.distill_losses.loss_review.update(loss_weight=5.0)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
