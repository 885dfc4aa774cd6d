# The paper's CIFAR recipe, an eighth as long.
_base_ = './cakd_240e.py'

param_scheduler = dict(milestones=[19, 23, 26])
train_cfg = dict(max_epochs=30)
auto_scale_lr = dict(base_batch_size=64)
