_base_ = [
    '../runtime_det.py',
    '../datasets/digit_scenes_det.py',
    '../schedules/scenes.py',
]
