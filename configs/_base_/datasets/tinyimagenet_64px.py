# Tiny-ImageNet as it is published, at 64x64. Mean and standard deviation are those in
# common use for it, not measured here: tools/dataset_tools/measure_statistics.py does
# it on your copy. The mean agrees with the one measured at 32x32, and the deviation is
# larger, as it has to be before averaging pixels.
_base_ = './tinyimagenet.py'

data_preprocessor = dict(
    mean=[0.4802 * 255, 0.4481 * 255, 0.3975 * 255],
    std=[0.2770 * 255, 0.2691 * 255, 0.2821 * 255],
)

read = [
    dict(type='LoadImageFromFile'),
    # Leaves 64x64 as it is.
    dict(type='Resize', scale=64, interpolation='area'),
]
train_pipeline = [
    *read,
    dict(type='RandomCrop', crop_size=64, padding=8),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [*read, dict(type='PackInputs')]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
del read
