# Tiny-ImageNet at 32x32. Mean and standard deviation (RGB) are measured over the
# 102,400,000 pixels of the 100,000 training images of the 32-pixel archive.
data_preprocessor = dict(
    num_classes=200,
    mean=[122.54, 114.38, 101.56],
    std=[64.30, 62.43, 66.05],
    to_rgb=True,
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    # For the original archive of 64x64; leaves 32x32 as it is.
    dict(type='Resize', scale=32, interpolation='area'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=32, interpolation='area'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='TinyImageNet',
        data_root='data/tiny-imagenet-200',
        split='train',
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type='TinyImageNet',
        data_root='data/tiny-imagenet-200',
        split='val',
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
