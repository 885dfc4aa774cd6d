# Two views of each 32x32 image: the usual crop and flip, and the same with strong
# changes and a grey square of up to half the width. The grey is RGB, as CIFAR-100 is.
_base_ = './strong.py'

weak = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
square = dict(
    type='Cutout',
    magnitude_range=(0, 16),
    magnitude_std='inf',
    prob=1.0,
    pad_val=(125, 123, 114),
)
two_views = [
    dict(
        type='MultiView',
        num_views=[1, 1],
        transforms=[weak, [*weak, _base_.strong, square]],
    ),
    dict(type='PackInputs'),
]
del weak, square
