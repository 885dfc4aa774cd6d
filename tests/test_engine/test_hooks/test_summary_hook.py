"""What a run of a detector says of itself; that of a classifier: test_train.py."""

from pathlib import Path

import pytest

pytest.importorskip('mmdet')

from tiny_scenes import RETINANET, scenes_config

COCO = dict(type='CocoMetric', metric='bbox')


@pytest.mark.parametrize(
    ('least', 'said'),
    [(0.0, 'coco/bbox_mAP '), (2.0, 'not scored by validation, which gave no metric')],
)
def test_a_detector_is_named_and_its_score_is_told(make_runner, least, said):
    cfg = scenes_config(RETINANET, scenes=2)
    cfg.default_hooks.pop('extract')
    cfg.model.architecture.test_cfg.score_thr = least
    cfg.val_evaluator = COCO
    pack = cfg.val_dataloader.dataset.pipeline[-1]
    pack.meta_keys = (*pack.meta_keys, 'instances')
    runner = make_runner(cfg)
    runner.train()
    [log] = Path(runner.log_dir).glob('*.log')
    text = log.read_text()
    assert '  student  RetinaNet of ResNet and RetinaHead, ' in text
    assert 'RetinaHead, taught by RetinaNet of ResNet and RetinaHead with ' in text
    assert f'  last       {said}' in text
