# resnet56 -> resnet20's numbers.
_base_ = ['../_base_/tasks/r20_r8_digits_30e.py', '../_base_/methods/ldrld.py']
_base_.distiller.distill_losses.loss_ldrld.update(
    tau=4.0, alpha=10.5, beta=7.0, top_classes=7
)
model = dict(distiller=_base_.distiller)
