# As scenes_6e.py, with 15 epochs: there are far fewer slices.
_base_ = './scenes_6e.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, T_max=15),
]
train_cfg = dict(max_epochs=15, val_interval=15)
