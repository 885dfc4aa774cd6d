# The benchmarks' pair: their light student is the first MobileNet. The teacher's
# weights are torchvision's.
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='MobileNetV1'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=1024),
    ),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py'),
    teacher_ckpt='checkpoints/resnet50_torchvision_in1k.pth',
    teacher_from='python tools/model_converters/from_torchvision.py IMAGENET1K_V1 '
    'checkpoints/resnet50_torchvision_in1k.pth --arch resnet50',
)
