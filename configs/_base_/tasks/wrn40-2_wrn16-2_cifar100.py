_base_ = [
    '../default_runtime.py',
    '../datasets/cifar100.py',
    '../schedules/cakd_240e.py',
    '../pairs/wrn40-2_wrn16-2_cifar100.py',
]
