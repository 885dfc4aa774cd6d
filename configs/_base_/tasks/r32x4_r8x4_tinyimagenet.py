_base_ = [
    '../default_runtime.py',
    '../datasets/tinyimagenet.py',
    '../schedules/cakd_240e.py',
    '../pairs/r32x4_r8x4_cifar100.py',
]
model = dict(
    architecture=dict(head=dict(num_classes=200)),
    teacher=dict(head=dict(num_classes=200)),
    teacher_ckpt='work_dirs/resnet32x4_tinyimagenet/epoch_240.pth',
    teacher_from='python tools/train.py configs/vanilla/resnet32x4_tinyimagenet.py',
)
