_base_ = ['../_base_/tasks/r34_r18_in1k.py', '../_base_/methods/dkd.py']
_base_.distiller.distill_losses.loss_dkd.update(tau=1.0, alpha=1.0, beta=0.5)
model = dict(distiller=_base_.distiller)
