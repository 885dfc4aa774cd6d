_base_ = './r56_r20_cifar100.py'

net = dict(backbone=dict(widths=(32, 64, 128, 256)), head=dict(in_channels=256))
model = dict(
    architecture=dict(backbone=dict(depth=8, **net['backbone']), head=net['head']),
    teacher=dict(backbone=dict(depth=32, **net['backbone']), head=net['head']),
    teacher_ckpt='work_dirs/resnet32x4_cifar100/epoch_240.pth',
    teacher_from='python tools/train.py configs/vanilla/resnet32x4_cifar100.py',
)
del net
