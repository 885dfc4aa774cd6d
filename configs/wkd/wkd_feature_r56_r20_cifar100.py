# Not stated for this pair: numbers of r32x4_r8x4.
_base_ = ['../_base_/tasks/r56_r20_cifar100.py', '../_base_/methods/wkd_feature.py']
_base_.distiller.distill_losses.loss_wkd.update(
    mean_weight=4.0, grid=1, loss_weight=0.08, decay_from=150, decay_to=240
)
model = dict(distiller=_base_.distiller)
