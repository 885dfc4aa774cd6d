_base_ = ['../_base_/tasks/r50_mbv1_in1k.py', '../_base_/methods/reviewkd_in1k.py']
_base_.distiller.distill_losses.loss_review.update(loss_weight=8.0)
_base_.distiller.connectors.fusion.update(mid_channels=256)
model = dict(distiller=_base_.distiller)
