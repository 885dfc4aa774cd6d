# Not stated for this pair and data: numbers of vgg13_vgg8.
_base_ = ['../_base_/tasks/wrn40-2_wrn16-2_cifar100.py', '../_base_/methods/wttm.py']
_base_.distiller.distill_losses.loss_wttm.update(tau=5.0, loss_weight=4.0)
model = dict(distiller=_base_.distiller)
