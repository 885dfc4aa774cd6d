_base_ = ['../_base_/tasks/fcos_r101_r50_coco.py', '../_base_/methods/cakd_fpn.py']
_base_.distiller.distill_losses.loss_fpn.update(loss_weight=1.0)
model = dict(distiller=_base_.distiller)
