_base_ = ['../_base_/tasks/r50_mbv1_in1k.py', '../_base_/methods/crd.py']
_base_.distiller.distill_losses.loss_crd.update(loss_weight=0.8)
model = dict(distiller=_base_.distiller)
