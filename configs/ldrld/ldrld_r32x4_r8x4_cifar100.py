_base_ = ['../_base_/tasks/r32x4_r8x4_cifar100.py', '../_base_/methods/ldrld.py']
_base_.distiller.distill_losses.loss_ldrld.update(
    tau=4.0, alpha=10.5, beta=7.0, top_classes=7
)
model = dict(distiller=_base_.distiller)
