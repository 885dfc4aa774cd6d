_base_ = './gfl-r18w8_scenes-det.py'

model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    neck=dict(in_channels=[32, 64, 128]),
)
