# Not stated for this pair and data: numbers of resnet34_resnet18.
_base_ = ['../_base_/tasks/r56_r20_cifar100.py', '../_base_/methods/nkd.py']
_base_.distiller.distill_losses.loss_nkd.update(tau=3.0, gamma=3.5)
model = dict(distiller=_base_.distiller)
