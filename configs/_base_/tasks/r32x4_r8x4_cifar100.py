_base_ = [
    '../default_runtime.py',
    '../datasets/cifar100.py',
    '../schedules/cakd_240e.py',
    '../pairs/r32x4_r8x4_cifar100.py',
]
