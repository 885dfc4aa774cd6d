# Two views of each digit scan: the usual crop, and the same with strong changes and a
# grey square of up to half the width. A digit that is mirrored is none.
_base_ = './strong.py'

weak = [dict(type='RandomCrop', crop_size=16, padding=2)]
square = dict(
    type='Cutout', magnitude_range=(0, 8), magnitude_std='inf', prob=1.0, pad_val=125
)
two_views = [
    dict(type='Resize', scale=16, interpolation='bilinear'),
    dict(
        type='MultiView',
        num_views=[1, 1],
        transforms=[weak, [*weak, _base_.strong, square]],
    ),
    dict(type='PackInputs'),
]
del weak, square
