# Tiny-ImageNet at 32x32. Mean and standard deviation (RGB) are measured over the
# 102,400,000 pixels of the 100,000 training images of the 32-pixel archive, by
# tools/dataset_tools/measure_statistics.py.
_base_ = './cifar100.py'

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
train_pipeline = [*read, *_base_.train_pipeline]
test_pipeline = [*read, dict(type='PackInputs')]

dataset = dict(type='TinyImageNet', data_root='data/tiny-imagenet-200')
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(split='val', pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
del dataset, read
