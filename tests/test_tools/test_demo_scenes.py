"""Small segmentors and detectors from the first step to the student's score."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny import CONFIGS

FEW = {
    'train_dataloader.batch_size': 2,
    'val_dataloader.batch_size': 3,
    'test_dataloader.batch_size': 3,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'default_hooks.logger.interval': 1,
    'model.teacher_ckpt': None,
    'model.allow_random_teacher': True,
}
PIXEL = {'pixel/bcd', 'pixel/scd', 'pixel/wcd'}
LEVELS = {'fpn/bcd_4', 'fpn/scd_0', 'fpn/wcd'}


@pytest.mark.parametrize(
    ('leaf', 'project', 'metric', 'terms'),
    [
        ('demo_scenes-seg', 'mmseg', 'mIoU', PIXEL),
        ('demo_scenes-det', 'mmdet', 'coco/bbox_mAP', LEVELS),
        ('r18w16_r18w8_brain', 'mmseg', 'mIoU', PIXEL),
    ],
)
def test_a_student_is_trained_extracted_and_scored_as_in_its_run(
    tmp_path, make_runner, leaf, project, metric, terms
):
    pytest.importorskip(project)
    cfg = Config.fromfile(CONFIGS / f'cakd/{leaf}.py')
    cfg.merge_from_dict(FEW)
    if leaf.endswith('_brain'):
        pytest.importorskip('nilearn')
    count = 'indices' if leaf.endswith('_brain') else 'scenes'
    for part, images in (('train', 4), ('val', 3), ('test', 3)):
        cfg[f'{part}_dataloader'].dataset[count] = images
    if project == 'mmdet':
        # COCO's metric has no score where an untrained net finds nothing.
        cfg.model.architecture.test_cfg = dict(score_thr=0.0)
    runner = make_runner(cfg)
    runner.train()
    [log] = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert terms <= {key for line in lines for key in line}
    own = lines[-1][metric]

    plain = Config.fromfile(tmp_path / 'run' / 'student.py')
    plain.work_dir = str(tmp_path / 'plain')
    plain.load_from = str(tmp_path / 'run' / 'student.pth')
    assert plain.default_scope == project
    weights = torch.load(plain.load_from, weights_only=False)['state_dict']
    for name, weight in weights.items():
        assert torch.equal(weight, runner.model.student.state_dict()[name])
    assert Runner.from_cfg(plain).test()[metric] == pytest.approx(own, abs=1e-6)
