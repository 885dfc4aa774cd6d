_base_ = [
    '../default_runtime.py',
    '../datasets/cifar100.py',
    '../schedules/cakd_240e_light.py',
    '../pairs/r32x4_shv2_cifar100.py',
]
