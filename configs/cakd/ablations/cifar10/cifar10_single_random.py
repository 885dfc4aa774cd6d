_base_ = [
    '../../../_base_/tasks/r20_r8_cifar10-16px.py',
    '../../../_base_/methods/cakd_feature.py',
]
model = dict(distiller=_base_.distiller.to_dict())
model['distiller']['distill_losses']['loss_feature']['scorer'] = dict(
    type='RandomScorer'
)
