# Not stated for this pair and data: numbers of r50_mbv1.
_base_ = ['../_base_/tasks/r34_r18_in1k.py', '../_base_/methods/ofd_in1k.py']
_base_.distiller.distill_losses.loss_ofd.update(loss_weight=0.0001)
model = dict(distiller=_base_.distiller)
