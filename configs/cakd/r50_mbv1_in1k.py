# Not stated for this pair and data: numbers of r50_mbv2.
_base_ = ['../_base_/tasks/r50_mbv1_in1k.py', '../_base_/methods/cakd_logit.py']
_base_.distiller.distill_losses.loss_cakd.update(tau=1.0, alpha=1.0, gamma=2.0)
model = dict(distiller=_base_.distiller)
