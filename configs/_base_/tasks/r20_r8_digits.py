_base_ = [
    '../default_runtime.py',
    '../datasets/digits.py',
    '../schedules/digits.py',
    '../pairs/r20_r8_digits.py',
]
