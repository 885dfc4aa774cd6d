_base_ = [
    '../_base_/tasks/r18w16_r18w8_scenes-det.py',
    '../_base_/methods/cakd_fpn.py',
]
model = dict(distiller=_base_.distiller)
