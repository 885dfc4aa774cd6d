# As scenes.py, with 6 epochs and a higher rate, for nets that segment.
_base_ = './scenes.py'
optim_wrapper = dict(optimizer=dict(lr=1e-2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, T_max=6),
]
train_cfg = dict(max_epochs=6, val_interval=6)
