_base_ = [
    '../default_runtime.py',
    '../datasets/cifar10_mini.py',
    '../schedules/small_30e.py',
]
