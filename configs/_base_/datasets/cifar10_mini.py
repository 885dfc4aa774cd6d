# A part of CIFAR-10 at its full size, for tables that fit two cores: the first 1,000
# training images of each class by file name, the whole test set. The images are read
# as cifar10_images.py reads them, and the statistics are those of the whole set.
data_preprocessor = dict(
    num_classes=10,
    mean=[125.27, 122.93, 113.86],
    std=[62.53, 61.91, 66.46],
    to_rgb=True,
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    # Changes nothing: tells those who export the student its image size.
    dict(type='Resize', scale=32),
    dict(type='PackInputs'),
]

dataset = dict(type='DecodedImages', data_root='data/cifar10', size=32)
loader = dict(
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    collate_fn=dict(type='default_collate'),
)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        data_prefix='train', per_class=(0, 1000), pipeline=train_pipeline, **dataset
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    **loader,
)
val_dataloader = dict(
    batch_size=256,
    dataset=dict(data_prefix='test', pipeline=test_pipeline, **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
del dataset, loader
