_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cakd_240e.py',
    '../_base_/pairs/r32x4_r8x4_cifar100.py',
    '../_base_/methods/crd.py',
]
_base_.distiller.distill_losses.loss_crd.update(loss_weight=0.8)
model = dict(distiller=_base_.distiller)
