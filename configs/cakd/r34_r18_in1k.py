_base_ = ['../_base_/tasks/r34_r18_in1k.py', '../_base_/methods/cakd_logit.py']
_base_.distiller.distill_losses.loss_cakd.update(tau=1.0, alpha=1.0, gamma=0.5)
model = dict(distiller=_base_.distiller)
