_base_ = ['../_base_/tasks/r34_r18_in1k.py', '../_base_/methods/norm.py']
_base_.distiller.distill_losses.loss_norm.update(
    factors=[(0, 0.1), (5, 0.5), (15, 0.9), (60, 0.5), (80, 0.1)]
)
neck = dict(type='NORMNeck', in_channels=512, teacher_channels=512, segments=8)
model = dict(
    distiller=_base_.distiller,
    architecture=dict(neck=neck),
)
del neck
