_base_ = [
    '../default_runtime.py',
    '../datasets/digits.py',
    '../schedules/small_30e.py',
    '../pairs/r20_r8_digits.py',
]
