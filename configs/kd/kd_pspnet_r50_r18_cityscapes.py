# Not stated for this pair, nor for another one: chosen here.
_base_ = [
    '../_base_/tasks/pspnet_r50_r18_cityscapes.py',
    '../_base_/methods/kd_pixel.py',
]
_base_.distiller.distill_losses.loss_pixel.loss.update(tau=1.0)
model = dict(distiller=_base_.distiller)
