_base_ = [
    '../runtime_seg_epochs.py',
    '../datasets/digit_scenes_seg.py',
    '../schedules/scenes_6e.py',
]
