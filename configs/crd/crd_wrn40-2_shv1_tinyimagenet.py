# Not stated for this pair and data: numbers of r32x4_r8x4.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/tinyimagenet.py',
    '../_base_/schedules/cakd_240e_light.py',
    '../_base_/pairs/wrn40-2_shv1_tinyimagenet.py',
    '../_base_/methods/crd.py',
]
_base_.distiller.distill_losses.loss_crd.update(loss_weight=0.8)
model = dict(distiller=_base_.distiller)
