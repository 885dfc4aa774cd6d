"""MMRazor's own configs of detectors and segmentors, under our algorithm."""

import warnings
from pathlib import Path

import mmrazor
import pytest
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.optim import SGD

from cakd_mm.plain_operations import MissingOperationError

# isort: split
from mmrazor.registry import MODELS

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from tiny_scenes import FCN, NARROW, NARROW_WIDTHS, RETINANET, scenes_config

FOLDER = Path(mmrazor.__file__).parent / '.mim' / 'configs' / 'distill'
FILES = sorted(
    file.relative_to(FOLDER)
    for project in ('mmdet', 'mmseg')
    for file in (FOLDER / project).rglob('*.py')
)
# It names a config that mmdet 3 calls otherwise.
RENAMED = 'cwd_fpn_frcnn_r101_frcnn_r50_1x_coco.py'
# Its nets have deformable convolutions.
COMPILED = 'pkd_fpn_reppoints_x101-dcn_reppoints_r50_2x_coco.py'
# FBKD pools the maps of a pyramid, the coarsest of which are too small otherwise: a
# pool of three pixels leaves one of the 192 / 64 that it has.
LARGE_SIZE = 192
LARGE = 'fbkd_fpn_faster-rcnn_r101_faster-rcnn_r50_1x_coco.py'


def narrowed(file: Path) -> Config:
    """Return a config of MMRazor's for our algorithm, with ResNets of few channels."""
    cfg = Config.fromfile(FOLDER / file)
    model = cfg.model
    model._scope_ = 'mmrazor'
    model.type = 'FrozenTeacherDistill'
    model.distiller.type = 'StrictDistiller'
    model.pop('teacher_ckpt', None)
    model.allow_random_teacher = True
    for name in ('architecture', 'teacher'):
        net = model[name]
        net.pop('pretrained', None)
        if file.parts[0] == 'mmseg':
            widths = (
                NARROW_WIDTHS if name == 'teacher' else [x // 4 for x in NARROW_WIDTHS]
            )
            net.update(
                pretrained=None,
                backbone=dict(base_channels=4, stem_channels=4),
                decode_head=dict(in_channels=widths[3], channels=8),
                auxiliary_head=dict(in_channels=widths[2], channels=8),
            )
        elif 'swin' in str(net.get('cfg_path')):
            net.backbone = dict(init_cfg=None, embed_dims=24, depths=(1, 1, 1, 1))
            net.neck = {**net.get('neck', {}), 'in_channels': [24, 48, 96, 192]}
        else:
            net.neck = {**net.get('neck', {}), 'in_channels': NARROW_WIDTHS}
            net.backbone = dict(_delete_=True, **NARROW)
            if 'cfg_path' not in net:
                net.backbone.pop('_delete_')
    return cfg


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_a_step(file):
    cfg = narrowed(file)
    if file.name == RENAMED:
        with pytest.raises(FileNotFoundError, match='Like it: .*faster-rcnn_r'):
            MODELS.build(cfg.model)
        for name in ('architecture', 'teacher'):
            net = cfg.model[name]
            net.cfg_path = net.cfg_path.replace('/faster_rcnn_', '/faster-rcnn_')
    if file.name == COMPILED:
        cfg.model.teacher.backbone.dcn = dict(type='DCN')
        cfg.model.teacher.backbone.stage_with_dcn = (False, True, True, True)
        with pytest.raises(ValueError, match='deform_conv') as caught:
            MODELS.build(cfg.model)
        assert isinstance(caught.value.__cause__, MissingOperationError)
        return
    scope = file.parts[0]
    run = scenes_config(FCN if scope == 'mmseg' else RETINANET, scenes=2)
    if file.name == LARGE:
        run.train_dataloader.dataset.update(size=LARGE_SIZE, sides=(60, 90))
        run.train_dataloader.dataset.pipeline[2].scale = (LARGE_SIZE, LARGE_SIZE)
    with DefaultScope.overwrite_default_scope('mmrazor'), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # mmdet's and mmseg's, of their own settings
        model = MODELS.build(cfg.model).train()
    with DefaultScope.overwrite_default_scope(scope):
        [batch] = list(Runner.build_dataloader(run.train_dataloader))
    logged = model.train_step(
        batch, OptimWrapper(SGD(model.student.parameters(), 1e-4))
    )
    distilled = [value for name, value in logged.items() if name.startswith('distill.')]
    assert distilled
    assert sum(distilled) > 0
    assert all(value.isfinite() for value in logged.values())
