# Not stated for this pair: of retinanet_x101_r50.
_base_ = ['../_base_/tasks/gfl_r101_r18_coco.py', '../_base_/methods/mgd.py']
_base_.distiller.distill_losses.loss_mgd.loss.update(alpha_mgd=2e-5)
model = dict(distiller=_base_.distiller)
