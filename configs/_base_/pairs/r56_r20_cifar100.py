_base_ = './r20_r8_digits.py'

model = dict(
    architecture=dict(backbone=dict(depth=20), head=dict(num_classes=100)),
    teacher=dict(backbone=dict(depth=56), head=dict(num_classes=100)),
    teacher_ckpt='work_dirs/resnet56_cifar100/epoch_240.pth',
    teacher_from='python tools/train.py configs/vanilla/resnet56_cifar100.py',
)
