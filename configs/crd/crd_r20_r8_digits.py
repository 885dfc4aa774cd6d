# resnet56 -> resnet20's numbers, fewer negatives for 1,000 images.
_base_ = ['../_base_/tasks/r20_r8_digits_30e.py', '../_base_/methods/crd.py']
_base_.distiller.distill_losses.loss_crd.update(negatives=512, loss_weight=0.8)
model = dict(distiller=_base_.distiller)
