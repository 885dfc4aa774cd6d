# mmseg's 80,000 iterations, for batches of 8.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(
    type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=80000, by_epoch=False
)

train_cfg = dict(type='ResumableIterLoop', max_iters=80000, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(base_batch_size=8)
