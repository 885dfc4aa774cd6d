# resnet56 -> resnet20's numbers.
_base_ = ['../_base_/tasks/r20_r8_cifar10-mini.py', '../_base_/methods/wttm.py']
_base_.distiller.distill_losses.loss_wttm.update(tau=5.0, loss_weight=4.0)
model = dict(distiller=_base_.distiller)
