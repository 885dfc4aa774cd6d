_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/tinyimagenet.py',
    '../_base_/schedules/cakd_240e.py',
    '../_base_/pairs/wrn40-2_wrn16-2_tinyimagenet.py',
    '../_base_/methods/cmkd.py',
]
_base_.distiller.distill_losses.loss_cmkd.update(alpha=1.0, beta=1.0)
model = dict(distiller=_base_.distiller)
