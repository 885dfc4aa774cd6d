"""The demos of scenes from the first step to the student's score, with few scenes."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny import CONFIGS

FEW = {
    'train_dataloader.dataset.scenes': 4,
    'train_dataloader.batch_size': 2,
    'val_dataloader.dataset.scenes': 3,
    'val_dataloader.batch_size': 3,
    'test_dataloader.dataset.scenes': 3,
    'test_dataloader.batch_size': 3,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'default_hooks.logger.interval': 1,
    'model.teacher_ckpt': None,
    'model.allow_random_teacher': True,
}


@pytest.mark.parametrize(
    ('task', 'project', 'metric', 'terms'),
    [
        ('seg', 'mmseg', 'mIoU', {'pixel/bcd', 'pixel/scd', 'pixel/wcd'}),
        ('det', 'mmdet', 'coco/bbox_mAP', {'fpn/bcd_4', 'fpn/scd_0', 'fpn/wcd'}),
    ],
)
def test_a_student_is_trained_extracted_and_scored_as_in_its_run(
    tmp_path, make_runner, task, project, metric, terms
):
    pytest.importorskip(project)
    cfg = Config.fromfile(CONFIGS / f'cakd/demo_scenes-{task}.py')
    cfg.merge_from_dict(FEW)
    if task == 'det':
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
