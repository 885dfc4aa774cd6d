_base_ = ['../_base_/tasks/r34_r18_in1k.py', '../_base_/methods/reviewkd_in1k.py']
_base_.distiller.distill_losses.loss_review.update(loss_weight=1.0)
model = dict(distiller=_base_.distiller)
