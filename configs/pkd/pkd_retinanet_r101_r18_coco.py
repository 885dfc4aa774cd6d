# Not stated for this pair: of retinanet_x101_r50.
_base_ = ['../_base_/tasks/retinanet_r101_r18_coco.py', '../_base_/methods/pkd.py']
_base_.distiller.distill_losses.loss_pkd.update(loss_weight=10.0)
model = dict(distiller=_base_.distiller)
