# mmseg's Cityscapes, 2 crops of 512 x 1024 on each of 4 GPUs.
_base_ = 'mmseg::_base_/datasets/cityscapes.py'
