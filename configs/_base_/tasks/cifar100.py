_base_ = [
    '../default_runtime.py',
    '../datasets/cifar100.py',
    '../schedules/cakd_240e.py',
]
