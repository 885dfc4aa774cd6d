# Not stated for this pair and data: numbers of r50_mbv1.
_base_ = ['../_base_/tasks/r50_mbv2_in1k.py', '../_base_/methods/crd.py']
_base_.distiller.distill_losses.loss_crd.update(loss_weight=0.8)
model = dict(distiller=_base_.distiller)
