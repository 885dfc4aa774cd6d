# resnet56 -> resnet20's numbers, the warm-up a tenth of the epochs.
_base_ = ['../_base_/tasks/r20_r8_cifar10-mini.py', '../_base_/methods/ls_dkd.py']
_base_.distiller.distill_losses.loss_dkd.update(tau=3.0, alpha=18.0, beta=36.0)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
