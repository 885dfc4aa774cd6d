_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k.py',
    'mmpretrain::_base_/models/resnet18.py',
]
