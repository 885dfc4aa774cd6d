_base_ = ['../_base_/tasks/r20_r8_digits.py', '../_base_/methods/cakd_logit.py']
_base_.distiller.distill_losses.loss_cakd.update(tau=4.0, alpha=1.0, gamma=2.0)
model = dict(distiller=_base_.distiller)
