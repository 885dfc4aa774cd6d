_base_ = './r56_r20_cifar100.py'

wide = dict(_delete_=True, type='CIFARWideResNet', widen_factor=2)
model = dict(
    architecture=dict(backbone=dict(depth=16, **wide), head=dict(in_channels=128)),
    teacher=dict(backbone=dict(depth=40, **wide), head=dict(in_channels=128)),
    teacher_ckpt='work_dirs/wrn40-2_cifar100/epoch_240.pth',
    teacher_from='python tools/train.py configs/vanilla/wrn40-2_cifar100.py',
)
del wide
