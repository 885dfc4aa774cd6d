_base_ = ['../_base_/tasks/r50_mbv1_in1k.py', '../_base_/methods/wkd_feature_in1k.py']
_base_.distiller.distill_losses.loss_wkd.update(
    mean_weight=2.0, grid=4, loss_weight=0.005, decay_from=30, decay_to=100
)
model = dict(distiller=_base_.distiller)
