# As scenes.py, with 15 epochs and a higher rate. With 10, or with a rate of 3e-3, nets
# that segment find the ink, but hardly tell which digit it is.
_base_ = './scenes.py'
optim_wrapper = dict(optimizer=dict(lr=1e-2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, T_max=15),
]
train_cfg = dict(max_epochs=15, val_interval=15)
