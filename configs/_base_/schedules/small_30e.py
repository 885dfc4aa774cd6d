# The paper's CIFAR recipe (cakd_240e.py), an eighth as long, for small sets. Long
# enough for the small student to level off (see research/docs/feature_study.md).
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(
    type='MultiStepLR', by_epoch=True, milestones=[19, 23, 26], gamma=0.1
)

train_cfg = dict(type='ResumableTrainLoop', max_epochs=30, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
