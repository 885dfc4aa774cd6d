# mmdet's COCO, 2 images on each of 8 GPUs.
_base_ = 'mmdet::_base_/datasets/coco_detection.py'
