"""What docs/guides/dense.md shows."""

import pytest
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from pages import blocks
from torch.optim import SGD

# isort: split
from mmrazor.registry import MODELS

pytest.importorskip('mmdet')

from tiny_scenes import NARROW, NARROW_WIDTHS, RETINANET, scenes_config


def test_a_pair_of_detectors(tmp_path):
    [pair] = blocks('docs/guides/dense.md')
    file = tmp_path / 'leaf.py'
    file.write_text(pair, encoding='utf-8')
    cfg = Config.fromfile(file)
    assert cfg.default_scope == 'mmdet'
    assert cfg.train_dataloader.dataset.type == 'CocoDataset'
    for net in (cfg.model.architecture, cfg.model.teacher):
        net.backbone = dict(_delete_=True, **NARROW)
        net.neck = dict(in_channels=NARROW_WIDTHS)
    cfg.model.teacher_ckpt, cfg.model.allow_random_teacher = None, True
    with DefaultScope.overwrite_default_scope('mmrazor'):
        model = MODELS.build(cfg.model).train()
    run = scenes_config(RETINANET, scenes=2)
    with DefaultScope.overwrite_default_scope('mmdet'):
        [batch] = list(Runner.build_dataloader(run.train_dataloader))
    optimizer = OptimWrapper(SGD(model.student.parameters(), 1e-4))
    logged = model.train_step(batch, optimizer)
    assert logged['distill.loss_fpn'] > 0
    terms = model.distiller.terms()
    assert {f'fpn/bcd_{level}' for level in range(5)} <= terms.keys()
