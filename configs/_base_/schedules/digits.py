# The student's budget: 10 epochs on 1,000 scans, seconds on two cores.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[6, 9], gamma=0.1)

train_cfg = dict(type='ResumableTrainLoop', max_epochs=10, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
