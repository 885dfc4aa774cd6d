# A transformer teaches a convolutional net: only their logits have to agree.
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='CIFARResNet', depth=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    ),
    teacher=dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(
                embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=128
            ),
            img_size=16,
            patch_size=4,
            drop_rate=0.1,
        ),
        head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=64),
    ),
    teacher_ckpt='work_dirs/vit-tiny_digits/epoch_60.pth',
    teacher_from='python tools/train.py configs/vanilla/vit-tiny_digits.py',
)
