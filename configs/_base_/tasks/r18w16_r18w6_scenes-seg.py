_base_ = ['./scenes-seg.py', '../pairs/r18w16_r18w6_scenes-seg.py']
