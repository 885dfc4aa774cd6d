# Not stated for this pair, nor for another one: chosen here.
_base_ = ['../_base_/tasks/retinanet_r50_r18_coco.py', '../_base_/methods/kd_scores.py']
_base_.distiller.distill_losses.loss_scores.loss.loss.update(tau=1.0)
model = dict(distiller=_base_.distiller)
