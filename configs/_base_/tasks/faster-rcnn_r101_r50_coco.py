_base_ = [
    '../runtime_det.py',
    '../datasets/coco.py',
    '../schedules/coco_1x.py',
    '../pairs/faster-rcnn_r101_r50_coco.py',
]
