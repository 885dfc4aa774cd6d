_base_ = [
    '../runtime_det.py',
    '../datasets/coco.py',
    '../schedules/coco_1x.py',
    '../pairs/gfl_r101_r18_coco.py',
]
# Half of mmdet's, as its own configs of this detector have it.
optim_wrapper = dict(optimizer=dict(lr=0.01))
