# Not stated for this pair: of retinanet_r101_r50.
_base_ = ['../_base_/tasks/retinanet_r50_r18_coco.py', '../_base_/methods/cwd_fpn.py']
_base_.distiller.distill_losses.loss_cwd.loss.update(tau=1.0, loss_weight=10.0)
model = dict(distiller=_base_.distiller)
