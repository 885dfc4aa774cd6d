_base_ = [
    '../../../_base_/tasks/wrn40-2_shv1_tinyimagenet.py',
    '../../../_base_/methods/cakd_feature.py',
]
_base_.distiller.distill_losses.loss_feature.update(beta=8.0, gamma=4.0)
model = dict(distiller=_base_.distiller)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=20))
