# The nets of the other part of CIFAR-10, and a teacher of this one.
_base_ = [
    '../default_runtime.py',
    '../datasets/cifar10_16px.py',
    '../schedules/cifar10_16px.py',
    '../pairs/r20_r8_cifar10-mini.py',
]
model = dict(
    teacher_ckpt='work_dirs/resnet20_cifar10-16px/epoch_40.pth',
    teacher_from='python tools/train.py configs/vanilla/resnet20_cifar10-16px.py',
)
