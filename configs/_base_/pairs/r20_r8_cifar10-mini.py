_base_ = './r20_r8_digits.py'

model = dict(
    teacher_ckpt='work_dirs/resnet20_cifar10-mini/epoch_30.pth',
    teacher_from='python tools/train.py configs/vanilla/resnet20_cifar10-mini.py',
)
