_base_ = [
    '../default_runtime.py',
    '../datasets/tinyimagenet.py',
    '../schedules/cakd_240e.py',
]
