# A part of CIFAR-10 at its full size, for tables that fit two cores: the first 1,000
# training images of each class by file name, the whole test set.
_base_ = './cifar10_images.py'

loader = dict(num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader = dict(batch_size=64, dataset=dict(per_class=(0, 1000)), **loader)
val_dataloader = dict(**loader)
test_dataloader = dict(**loader)
del loader
