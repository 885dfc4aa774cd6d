_base_ = [
    '../runtime_seg.py',
    '../datasets/cityscapes.py',
    '../schedules/cityscapes_80k.py',
    '../pairs/pspnet_r50_r18_cityscapes.py',
]
