_base_ = [
    '../_base_/tasks/retinanet_r50_r18_coco.py',
    '../_base_/methods/cakd_scores.py',
]
model = dict(distiller=_base_.distiller)
