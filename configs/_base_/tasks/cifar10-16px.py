_base_ = [
    '../default_runtime.py',
    '../datasets/cifar10_16px.py',
    '../schedules/cifar10_16px.py',
]
