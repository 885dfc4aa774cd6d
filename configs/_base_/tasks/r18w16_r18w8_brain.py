_base_ = [
    '../runtime_seg_epochs.py',
    '../datasets/brain_slices.py',
    '../schedules/slices_15e.py',
    '../pairs/r18w16_r18w8_brain.py',
]
