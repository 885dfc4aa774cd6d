# A small transformer as a teacher of another kind.
_base_ = '../_base_/tasks/digits.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=128),
        img_size=16,
        patch_size=4,
        drop_rate=0.1,
    ),
    neck=None,
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=64),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=0.05)
)
train_cfg = dict(max_epochs=60)
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', by_epoch=True)
