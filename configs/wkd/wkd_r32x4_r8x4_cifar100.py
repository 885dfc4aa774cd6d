_base_ = ['../_base_/tasks/r32x4_r8x4_cifar100.py', '../_base_/methods/wkd.py']
_base_.distiller.distill_losses.loss_wkd.update(
    tau=8.0, gamma=200.0, decay_from=150, decay_to=240
)
_base_.distiller.distill_losses.loss_feature.update(
    mean_weight=8.0, grid=1, loss_weight=0.08, decay_from=150, decay_to=240
)
model = dict(distiller=_base_.distiller)
