# The paper's pair as it is written. Its numbers are those published elsewhere for
# MobileNetV1, see r50_mbv1_in1k.py. Both nets are mmpretrain's; the teacher's weights
# are torchvision's.
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(cfg_path='mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py'),
    teacher_ckpt='checkpoints/resnet50_torchvision_in1k.pth',
    teacher_from='python tools/model_converters/from_torchvision.py IMAGENET1K_V1 '
    'checkpoints/resnet50_torchvision_in1k.pth --arch resnet50',
)
