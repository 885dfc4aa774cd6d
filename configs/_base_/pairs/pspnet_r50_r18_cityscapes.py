# mmseg's PSPNets; the teacher has 78.55 mIoU.
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(
        cfg_path='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    ),
    teacher=dict(
        cfg_path='mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py'
    ),
    teacher_ckpt='https://mmassets.onedl.ai/mmsegmentation/v0.5/pspnet/'
    'pspnet_r50-d8_512x1024_80k_cityscapes/'
    'pspnet_r50-d8_512x1024_80k_cityscapes_20200606_112131-2376f12b.pth',
)
