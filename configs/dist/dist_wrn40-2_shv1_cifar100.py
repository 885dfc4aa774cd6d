# Not stated for this pair and data: numbers of r32x4_shv2.
_base_ = [
    '../_base_/tasks/wrn40-2_shv1_cifar100.py',
    '../_base_/methods/dist.py'
]
_base_.distiller.distill_losses.loss_dist.update(tau=4.0, loss_weight=2.0)
model = dict(distiller=_base_.distiller)
