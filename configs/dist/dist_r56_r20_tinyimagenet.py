# Not stated for this pair and data: numbers of r56_r20 on CIFAR-100.
_base_ = [
    '../_base_/tasks/r56_r20_tinyimagenet.py',
    '../_base_/methods/dist.py'
]
_base_.distiller.distill_losses.loss_dist.update(tau=4.0, loss_weight=2.0)
model = dict(distiller=_base_.distiller)
