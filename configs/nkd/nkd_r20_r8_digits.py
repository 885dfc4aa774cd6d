# resnet56 -> resnet20's numbers.
_base_ = ['../_base_/tasks/r20_r8_digits_30e.py', '../_base_/methods/nkd.py']
_base_.distiller.distill_losses.loss_nkd.update(tau=3.0, gamma=3.5)
model = dict(distiller=_base_.distiller)
