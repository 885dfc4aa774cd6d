# Both nets are mmpretrain's; the teacher's weights are torchvision's (73.31 top-1).
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py'),
    teacher_ckpt='checkpoints/resnet34_torchvision_in1k.pth',
    teacher_from='python tools/model_converters/from_torchvision.py IMAGENET1K_V1 '
    'checkpoints/resnet34_torchvision_in1k.pth --arch resnet34',
)
