# mmpretrain's ImageNet pipeline; 64 images on each of 8 GPUs make the batch of 512.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64.py'
