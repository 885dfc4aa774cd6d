# Owns `model` but for its distiller, which the method base owns.
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(cfg_path='cakd_mm::vanilla/fpn-r18w8_brain.py'),
    teacher=dict(cfg_path='cakd_mm::vanilla/fpn-r18w16_brain.py'),
    teacher_ckpt='work_dirs/fpn-r18w16_brain/epoch_15.pth',
    teacher_from='python tools/train.py configs/vanilla/fpn-r18w16_brain.py',
)
