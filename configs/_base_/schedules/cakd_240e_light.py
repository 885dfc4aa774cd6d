# For ShuffleNets and MobileNets, which the benchmarks train at a fifth of the rate of
# cakd_240e.py. All else is as there.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(
    type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210], gamma=0.1
)

train_cfg = dict(type='ResumableTrainLoop', max_epochs=240, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
