_base_ = ['../_base_/tasks/r34_r18_in1k.py', '../_base_/methods/wkd_in1k.py']
_base_.distiller.distill_losses.loss_wkd.update(
    tau=2.0, gamma=10.0, sharpness=1.0, decay_from=0, decay_to=100
)
_base_.distiller.distill_losses.loss_feature.update(
    mean_weight=2.0, grid=4, loss_weight=1.0, decay_from=0, decay_to=100
)
model = dict(distiller=_base_.distiller)
