_base_ = [
    '../_base_/tasks/wrn40-2_shv1_cifar100.py',
    '../_base_/methods/wkd_feature.py',
]
_base_.distiller.distill_losses.loss_wkd.update(
    mean_weight=3.0, grid=4, loss_weight=0.3, decay_from=150, decay_to=240
)
_base_.distiller.connectors.map.update(
    conv_cfg=dict(type='deconv'), kernel_size=4, stride=2, padding=1
)
model = dict(distiller=_base_.distiller)
