# A small FPN that segments maps of a few thousand pixels: a ResNet-18 of width 8, whose
# first layer keeps the size. A leaf says how many classes there are.
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
        # Without it nets hardly tell one digit from another in a few hundred steps.
        norm_cfg=dict(type='BN'),
    ),
    decode_head=dict(
        type='FPNHead',
        in_channels=[24] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[2, 4, 8, 16],
        channels=24,
        dropout_ratio=0.0,
        norm_cfg=dict(type='BN'),
    ),
    test_cfg=dict(mode='whole'),
)
