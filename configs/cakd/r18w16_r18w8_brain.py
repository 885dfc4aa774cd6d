_base_ = [
    '../_base_/tasks/r18w16_r18w8_brain.py',
    '../_base_/methods/cakd_pixel.py',
]
model = dict(distiller=_base_.distiller)
