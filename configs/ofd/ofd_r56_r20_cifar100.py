# Not stated for this pair and data: numbers of r32x4_r8x4.
_base_ = ['../_base_/tasks/r56_r20_cifar100.py', '../_base_/methods/ofd.py']
_base_.distiller.distill_losses.loss_ofd.update(loss_weight=0.001)
model = dict(distiller=_base_.distiller)
