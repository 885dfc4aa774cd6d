_base_ = '../_base_/tasks/scenes-seg.py'

model = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='mmpretrain.ResNet_CIFAR',
        depth=18,
        stem_channels=8,
        base_channels=8,
        strides=(2, 2, 2, 2),
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(
        type='FPN',
        in_channels=[8, 16, 32, 64],
        out_channels=24,
        num_outs=4,
        # Without it nets hardly tell one digit from another in so few steps.
        norm_cfg=dict(type='BN'),
    ),
    decode_head=dict(
        type='FPNHead',
        in_channels=[24] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[2, 4, 8, 16],
        channels=24,
        dropout_ratio=0.0,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        # Nine of ten pixels are background.
        loss_decode=dict(type='CrossEntropyLoss', class_weight=[0.1] + [1.0] * 10),
    ),
    test_cfg=dict(mode='whole'),
)
