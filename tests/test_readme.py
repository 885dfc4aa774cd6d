"""What the README shows is run, not only read."""

import copy
import re

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from tiny import CONFIGS

README = (CONFIGS.parent / 'README.md').read_text(encoding='utf-8')


def blocks(heading: str) -> list[str]:
    """Return the Python blocks of a section, up to the next heading."""
    section = re.split(r'^#+ ', README.split(f'# {heading}\n')[1], flags=re.MULTILINE)
    return re.findall(r'```python\n(.*?)```', section[0], flags=re.DOTALL)


def step(config: str, tmp_path, size: int = 64) -> dict:
    """Write a config, build its model with a random teacher, return its losses."""
    path = tmp_path / 'own.py'
    path.write_text(config)
    cfg = Config.fromfile(path)
    model = dict(cfg.model, data_preprocessor=cfg.data_preprocessor)
    assert model['teacher_ckpt'].endswith('.pth')
    model.update(teacher_ckpt=None, allow_random_teacher=True)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(copy.deepcopy(model)).train()
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    data = model.data_preprocessor({'inputs': images, 'data_samples': samples}, True)
    losses = model(**data, mode='loss')
    assert all(torch.isfinite(value).all() for value in losses.values())
    return {'model': model, 'losses': losses}


def test_a_pair_of_your_own(tmp_path):
    (config,) = blocks('A pair of your own')
    found = step(config, tmp_path)
    assert type(found['model'].student.backbone).__name__ == 'MobileNetV2'
    assert found['model'].teacher.backbone.depth == 50
    assert set(found['losses']) == {'student.loss', 'distill.loss_cakd'}


def test_a_feature_loss_of_your_own(tmp_path):
    config, _ = blocks('Features, scorers, ratios')
    found = step(config, tmp_path)
    connector = found['model'].distiller.connectors['feature'].linear
    assert (connector.in_features, connector.out_features) == (1280, 2048)
    assert {'distill.loss_cakd', 'distill.loss_feature'} <= set(found['losses'])
    loss = found['model'].distiller.distill_losses['loss_feature']
    assert type(loss.scorer).__name__ == 'ActivationScorer'
    assert found['model'].distiller.balancer.ratio == 0.5


def test_a_scorer_of_your_own():
    _, code = blocks('Features, scorers, ratios')
    try:
        exec(code, {})
        loss = MODELS.build(
            dict(type='CAKDFeatureLoss', scorer=dict(type='PeakScorer'))
        )
        assert loss(torch.randn(4, 8), torch.rand(4, 8)) > 0
        loss = MODELS.build(
            dict(
                type='CAKDFeatureLoss',
                scorer=dict(type='PeakScorer'),
                granularity='channel',
            )
        )
        assert loss(torch.randn(4, 8, 3, 3), torch.rand(4, 8, 3, 3)) > 0
    finally:
        MODELS.module_dict.pop('PeakScorer', None)


def test_the_losses_from_python():
    (code,) = blocks('The losses from Python')
    torch.manual_seed(0)
    names = {
        'student_logits': torch.randn(4, 10),
        'teacher_logits': torch.randn(4, 10),
        'labels': torch.arange(4),
        'strong_mask': torch.rand(4, 10) > 0.5,
        'student_feature': torch.randn(4, 32),
        'teacher_feature': torch.randn(4, 32).relu(),
    }
    exec(code, names)
    assert names['bcd'].shape == (4,)
    assert names['loss'] > 0 and names['feature_loss'] > 0
