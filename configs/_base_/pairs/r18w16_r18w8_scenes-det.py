# Owns `model` but for its distiller, which the method base owns.
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(cfg_path='cakd_mm::vanilla/gfl-r18w8_scenes-det.py'),
    teacher=dict(cfg_path='cakd_mm::vanilla/gfl-r18w16_scenes-det.py'),
    teacher_ckpt='work_dirs/gfl-r18w16_scenes-det/epoch_4.pth',
    teacher_from='python tools/train.py configs/vanilla/gfl-r18w16_scenes-det.py',
)
