_base_ = [
    '../../../_base_/tasks/r20_r8_digits_30e.py',
    '../../../_base_/methods/cakd_feature.py',
]
model = dict(distiller=_base_.distiller.to_dict())
# At this weight its value is about that of the clusters' (beta 8, gamma 2).
model['distiller']['distill_losses']['loss_feature'] = dict(
    type='FeatureSquaredLoss', standardize=True, loss_weight=10.0
)
default_hooks = dict(warmup=dict(type='DistillWarmupHook', epochs=3))
