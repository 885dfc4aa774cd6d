# The strong augmentation of multi-level logit distillation, in mmpretrain's transforms:
# two of fourteen changes, each as strong as chance will have it. The public code draws
# from the same ranges. `strong` becomes a step of the pipelines that inherit this file.
strong = dict(
    type='RandAugment',
    num_policies=2,
    magnitude_level=10,
    magnitude_std='inf',
    hparams=dict(prob=1.0, pad_val=0, interpolation='nearest'),
    policies=[
        dict(type='AutoContrast'),
        dict(type='AutoContrast', prob=0.0),  # leaves the image as it is
        dict(type='Equalize'),
        # These four take away, which a negative magnitude does.
        dict(type='Brightness', magnitude_range=(0.05, 0.95), random_negative_prob=1.0),
        dict(
            type='ColorTransform',
            magnitude_range=(0.05, 0.95),
            random_negative_prob=1.0,
        ),
        dict(type='Contrast', magnitude_range=(0.05, 0.95), random_negative_prob=1.0),
        dict(type='Sharpness', magnitude_range=(0.05, 0.95), random_negative_prob=1.0),
        dict(type='Posterize', magnitude_range=(3, 7)),  # rounded up
        dict(type='Solarize', magnitude_range=(0, 256)),
        # These five go to either side.
        dict(type='Rotate', magnitude_range=(0, 30)),
        dict(type='Shear', magnitude_range=(0, 0.3), direction='horizontal'),
        dict(type='Shear', magnitude_range=(0, 0.3), direction='vertical'),
        dict(type='Translate', magnitude_range=(0, 0.3), direction='horizontal'),
        dict(type='Translate', magnitude_range=(0, 0.3), direction='vertical'),
    ],
)
