# resnet56 -> resnet20's numbers, epochs of the decay an eighth.
_base_ = ['../_base_/tasks/r20_r8_digits_30e.py', '../_base_/methods/wkd_feature.py']
_base_.distiller.distill_losses.loss_wkd.update(
    mean_weight=4.0, grid=1, loss_weight=0.08, decay_from=19, decay_to=30
)
model = dict(distiller=_base_.distiller)
