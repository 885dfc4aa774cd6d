_base_ = ['./scenes-seg.py', '../pairs/r18w16_r18w8_scenes-seg.py']
