_base_ = ['./scenes-det.py', '../pairs/r18w16_r18w8_scenes-det.py']
