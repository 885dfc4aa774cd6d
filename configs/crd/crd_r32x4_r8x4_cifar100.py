_base_ = ['../_base_/tasks/r32x4_r8x4_cifar100.py', '../_base_/methods/crd.py']
_base_.distiller.distill_losses.loss_crd.update(loss_weight=0.8)
model = dict(distiller=_base_.distiller)
