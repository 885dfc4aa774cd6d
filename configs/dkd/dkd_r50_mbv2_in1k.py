# Not stated for this pair and data: numbers of r50_mbv1.
_base_ = ['../_base_/tasks/r50_mbv2_in1k.py', '../_base_/methods/dkd.py']
_base_.distiller.distill_losses.loss_dkd.update(tau=1.0, alpha=1.0, beta=2.0)
model = dict(distiller=_base_.distiller)
