# Owns `model` but for its distiller, which the method base owns.
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(cfg_path='cakd_mm::vanilla/fpn-r18w8_scenes-seg.py'),
    teacher=dict(cfg_path='cakd_mm::vanilla/fpn-r18w16_scenes-seg.py'),
    teacher_ckpt='work_dirs/fpn-r18w16_scenes-seg/epoch_6.pth',
    teacher_from='python tools/train.py configs/vanilla/fpn-r18w16_scenes-seg.py',
)
