# Two views of each image of ImageNet: the usual crop and flip, and the same with
# strong changes and a grey square of up to half the width. The grey is BGR, as images
# are read.
_base_ = './strong.py'

weak = [
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
square = dict(
    type='Cutout',
    magnitude_range=(0, 112),
    magnitude_std='inf',
    prob=1.0,
    pad_val=(114, 123, 125),
)
two_views = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiView',
        num_views=[1, 1],
        transforms=[weak, [*weak, _base_.strong, square]],
    ),
    dict(type='PackInputs'),
]
del weak, square
