# A fifth of CIFAR-10 at half its size, for experiments on two cores: 1,000 training
# images of each class, the whole test set. The folder is that of a jpeg export:
# data/cifar10/{train,test}/<class>/*.jpg.
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
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='DecodedImages',
        data_root='data/cifar10',
        data_prefix='train',
        size=16,
        per_class=(0, 1000),
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='DecodedImages',
        data_root='data/cifar10',
        data_prefix='test',
        size=16,
        pipeline=[dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
