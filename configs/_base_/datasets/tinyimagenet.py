# Tiny-ImageNet at 32x32. Mean and standard deviation (RGB) are measured over the
# 102,400,000 pixels of the 100,000 training images of the 32-pixel archive, by
# tools/dataset_tools/measure_statistics.py.
data_preprocessor = dict(
    num_classes=200,
    mean=[122.54, 114.38, 101.56],
    std=[64.30, 62.43, 66.05],
    to_rgb=True,
)

read = [
    dict(type='LoadImageFromFile'),
    # For the original archive of 64x64; leaves 32x32 as it is.
    dict(type='Resize', scale=32, interpolation='area'),
]
train_pipeline = [
    *read,
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [*read, dict(type='PackInputs')]

dataset = dict(type='TinyImageNet', data_root='data/tiny-imagenet-200')
loader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
)
train_dataloader = dict(
    dataset=dict(split='train', pipeline=train_pipeline, **dataset),
    sampler=dict(type='DefaultSampler', shuffle=True),
    **loader,
)
val_dataloader = dict(
    dataset=dict(split='val', pipeline=test_pipeline, **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
del dataset, loader, read
