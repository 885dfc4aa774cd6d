# Not stated for this pair: numbers of r32x4_r8x4.
_base_ = ['../_base_/tasks/r56_r20_cifar100.py', '../_base_/methods/norm.py']
_base_.distiller.distill_losses.loss_norm.update(
    factors=[(0, 0.1), (10, 0.5), (20, 1.0), (180, 0.5), (210, 0.1)]
)
neck = dict(type='NORMNeck', in_channels=64, teacher_channels=64, segments=8)
model = dict(
    distiller=_base_.distiller,
    student_loss_weight=0.1,
    architecture=dict(neck=neck),
)
del neck
