_base_ = [
    '../runtime_seg_epochs.py',
    '../datasets/digit_scenes_seg.py',
    '../schedules/scenes_6e.py',
    '../pairs/r18w16_r18w8_scenes-seg.py',
]
