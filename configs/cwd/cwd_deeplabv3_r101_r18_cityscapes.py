# Not stated for this pair: of pspnet_r101_r18.
_base_ = [
    '../_base_/tasks/deeplabv3_r101_r18_cityscapes.py',
    '../_base_/methods/cwd.py',
]
_base_.distiller.distill_losses.loss_cwd.update(tau=1.0, loss_weight=5.0)
model = dict(distiller=_base_.distiller)
