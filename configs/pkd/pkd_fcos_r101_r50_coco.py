# Not stated for this pair: of faster-rcnn_r101_r50.
_base_ = ['../_base_/tasks/fcos_r101_r50_coco.py', '../_base_/methods/pkd.py']
_base_.distiller.distill_losses.loss_pkd.update(loss_weight=6.0)
model = dict(distiller=_base_.distiller)
