# Not stated for this pair and data: numbers of r34_r18.
_base_ = ['../_base_/tasks/r50_mbv2_in1k.py', '../_base_/methods/ctkd.py']
_base_.distiller.distill_losses.loss_ctkd.update(epochs=5, loss_weight=1.0)
model = dict(distiller=_base_.distiller)
