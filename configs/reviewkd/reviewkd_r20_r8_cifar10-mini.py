# resnet56 -> resnet20's numbers, the warm-up a tenth of the epochs.
_base_ = ['../_base_/tasks/r20_r8_cifar10-mini.py', '../_base_/methods/reviewkd.py']
_base_.distiller.distill_losses.loss_review.update(loss_weight=0.6)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
