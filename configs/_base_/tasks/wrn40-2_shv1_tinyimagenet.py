_base_ = [
    '../default_runtime.py',
    '../datasets/tinyimagenet.py',
    '../schedules/cakd_240e_light.py',
    '../pairs/wrn40-2_shv1_cifar100.py',
]
model = dict(
    architecture=dict(head=dict(num_classes=200)),
    teacher=dict(head=dict(num_classes=200)),
    teacher_ckpt='work_dirs/wrn40-2_tinyimagenet/epoch_240.pth',
    teacher_from='python tools/train.py configs/vanilla/wrn40-2_tinyimagenet.py',
)
