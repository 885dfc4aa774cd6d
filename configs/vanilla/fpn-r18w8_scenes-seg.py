_base_ = '../_base_/tasks/scenes-seg.py'

model = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='mmpretrain.ResNet_CIFAR',
        depth=18,
        stem_channels=8,
        base_channels=8,
        strides=(2, 2, 2, 2),
        out_indices=(1, 2, 3),
    ),
    neck=dict(type='FPN', in_channels=[16, 32, 64], out_channels=32, num_outs=3),
    decode_head=dict(
        type='FPNHead',
        in_channels=[32, 32, 32],
        in_index=[0, 1, 2],
        feature_strides=[4, 8, 16],
        channels=32,
        dropout_ratio=0.0,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        # Five of six pixels are background.
        loss_decode=dict(type='CrossEntropyLoss', class_weight=[0.2] + [1.0] * 10),
    ),
    test_cfg=dict(mode='whole'),
)
