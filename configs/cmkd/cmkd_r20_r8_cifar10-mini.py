# resnet56 -> resnet20's numbers.
_base_ = ['../_base_/tasks/r20_r8_cifar10-mini.py', '../_base_/methods/cmkd.py']
_base_.distiller.distill_losses.loss_cmkd.update(alpha=1.0, beta=1.0)
model = dict(distiller=_base_.distiller)
