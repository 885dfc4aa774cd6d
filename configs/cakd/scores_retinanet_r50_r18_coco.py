_base_ = [
    '../_base_/tasks/retinanet_r50_r18_coco.py',
    '../_base_/methods/cakd_scores.py',
]
_base_.distiller.distill_losses.loss_scores.loss.update(num_classes=80)
model = dict(distiller=_base_.distiller)
