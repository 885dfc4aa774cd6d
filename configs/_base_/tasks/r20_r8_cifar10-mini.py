_base_ = [
    '../default_runtime.py',
    '../datasets/cifar10_mini.py',
    '../schedules/small_30e.py',
    '../pairs/r20_r8_cifar10-mini.py',
]
