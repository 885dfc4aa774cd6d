_base_ = [
    '../_base_/tasks/r50_mbv1_in1k.py',
    '../_base_/methods/dist.py'
]
_base_.distiller.distill_losses.loss_dist.update(tau=1.0, loss_weight=2.0)
model = dict(distiller=_base_.distiller)
