# mmpretrain's ImageNet pipeline; 64 images on each of 8 GPUs make the batch of 512.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64.py'

# What mmpretrain's own training tool adds to every loader.
loader = dict(
    pin_memory=True, persistent_workers=True, collate_fn=dict(type='default_collate')
)
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
del loader
