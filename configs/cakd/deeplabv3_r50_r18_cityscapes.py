_base_ = [
    '../_base_/tasks/deeplabv3_r50_r18_cityscapes.py',
    '../_base_/methods/cakd_pixel.py',
]
_base_.distiller.distill_losses.loss_pixel.loss.update(
    tau=4.0, alpha=1.0, beta=1.0, gamma=2.0
)
model = dict(distiller=_base_.distiller)
