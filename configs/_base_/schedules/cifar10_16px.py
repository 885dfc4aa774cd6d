# The paper's CIFAR recipe (cakd_240e.py), half as long, in bf16. The last epochs
# are scored one by one, to see whether training has levelled off.
optim_wrapper = dict(
    type='BF16OptimWrapper',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(
    type='MultiStepLR', by_epoch=True, milestones=[75, 90, 105], gamma=0.1
)

train_cfg = dict(
    type='ResumableTrainLoop', max_epochs=120, val_begin=116, val_interval=1
)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
