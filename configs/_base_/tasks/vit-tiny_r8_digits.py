_base_ = [
    '../default_runtime.py',
    '../datasets/digits.py',
    '../schedules/digits.py',
    '../pairs/vit-tiny_r8_digits.py',
]
