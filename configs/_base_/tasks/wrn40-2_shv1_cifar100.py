_base_ = [
    '../default_runtime.py',
    '../datasets/cifar100.py',
    '../schedules/cakd_240e_light.py',
    '../pairs/wrn40-2_shv1_cifar100.py',
]
