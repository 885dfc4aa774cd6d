# As scenes_6e.py, with 15 epochs: there are far fewer slices.
_base_ = './scenes_6e.py'
train_cfg = dict(max_epochs=15, val_interval=15)
