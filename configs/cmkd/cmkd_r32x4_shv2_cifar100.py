_base_ = ['../_base_/tasks/r32x4_shv2_cifar100.py', '../_base_/methods/cmkd.py']
_base_.distiller.distill_losses.loss_cmkd.update(alpha=1.0, beta=1.0)
model = dict(distiller=_base_.distiller)
