# Not stated for this pair: numbers of r32x4_r8x4.
_base_ = ['../_base_/tasks/r32x4_shv2_cifar100.py', '../_base_/methods/ldrld.py']
_base_.distiller.distill_losses.loss_ldrld.update(
    tau=4.0, alpha=10.5, beta=7.0, top_classes=7
)
model = dict(distiller=_base_.distiller)
