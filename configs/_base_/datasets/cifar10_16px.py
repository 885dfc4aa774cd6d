# A part of CIFAR-10 at half its size, for experiments on two cores: 200 training
# images of each class, the whole test set. Statistics of the first 1,000 of each.
_base_ = './cifar10_images.py'

data_preprocessor = dict(mean=[125.94, 123.32, 114.12], std=[60.53, 60.02, 64.65])

train_pipeline = [
    dict(type='RandomCrop', crop_size=16, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

loader = dict(num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader = dict(
    dataset=dict(size=16, per_class=(0, 200), pipeline=train_pipeline), **loader
)
val_dataloader = dict(dataset=dict(size=16, pipeline=test_pipeline), **loader)
test_dataloader = val_dataloader
del loader
