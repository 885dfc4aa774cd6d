# resnet56 -> resnet20's numbers, the epochs of the factors an eighth, warm-up a tenth.
_base_ = ['../_base_/tasks/r20_r8_cifar10-mini.py', '../_base_/methods/norm.py']
_base_.distiller.distill_losses.loss_norm.update(
    factors=[(0, 0.1), (1, 0.5), (3, 1.0), (22, 0.5), (26, 0.1)]
)
neck = dict(type='NORMNeck', in_channels=64, teacher_channels=64, segments=8)
model = dict(
    distiller=_base_.distiller,
    student_loss_weight=0.1,
    architecture=dict(neck=neck),
)
del neck
