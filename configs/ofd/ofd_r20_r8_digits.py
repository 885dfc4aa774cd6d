# resnet56 -> resnet20's numbers.
_base_ = ['../_base_/tasks/r20_r8_digits_30e.py', '../_base_/methods/ofd.py']
_base_.distiller.distill_losses.loss_ofd.update(loss_weight=1e-3)
model = dict(distiller=_base_.distiller)
