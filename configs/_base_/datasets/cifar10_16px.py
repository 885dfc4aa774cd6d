# A part of CIFAR-10 at half its size, for experiments on two cores: 200 training
# images of each class, the whole test set. Statistics of the first 1,000 of each.
# The images are read as cifar10_images.py reads them.
data_preprocessor = dict(
    num_classes=10,
    mean=[125.94, 123.32, 114.12],
    std=[60.53, 60.02, 64.65],
    to_rgb=True,
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=16, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

dataset = dict(type='DecodedImages', data_root='data/cifar10', size=16)
loader = dict(
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    collate_fn=dict(type='default_collate'),
)
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        data_prefix='train', per_class=(0, 200), pipeline=train_pipeline, **dataset
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
