_base_ = [
    '../runtime_det.py',
    '../datasets/digit_scenes_det.py',
    '../schedules/scenes.py',
    '../pairs/r18w16_r18w8_scenes-det.py',
]
