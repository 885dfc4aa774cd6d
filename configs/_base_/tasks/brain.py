_base_ = [
    '../runtime_seg_epochs.py',
    '../datasets/brain_slices.py',
    '../schedules/slices_15e.py',
]
