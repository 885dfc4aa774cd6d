_base_ = [
    '../runtime_seg.py',
    '../datasets/cityscapes.py',
    '../schedules/cityscapes_80k.py',
    '../pairs/deeplabv3_r50_r18_cityscapes.py',
]
