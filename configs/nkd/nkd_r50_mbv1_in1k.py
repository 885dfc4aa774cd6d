_base_ = ['../_base_/tasks/r50_mbv1_in1k.py', '../_base_/methods/nkd.py']
_base_.distiller.distill_losses.loss_nkd.update(tau=1.0, gamma=1.5)
model = dict(distiller=_base_.distiller)
