_base_ = [
    '../../../_base_/default_runtime.py',
    '../../../_base_/datasets/cifar10_16px.py',
    '../../../_base_/schedules/cifar10_16px.py',
    '../../../_base_/pairs/r20_r8_cifar10-16px.py',
    '../../../_base_/methods/cakd_feature.py',
]
model = dict(distiller=_base_.distiller)
