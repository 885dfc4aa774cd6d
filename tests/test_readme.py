"""What the README shows is run, not only read."""

import torch
from mmrazor.registry import MODELS
from pages import blocks, losses_of, train_page


def test_a_pair_of_your_own(tmp_path):
    (config,) = blocks('README.md', heading='A pair of your own')
    runner = train_page(config, tmp_path, size=64)
    assert type(runner.model.student.backbone).__name__ == 'MobileNetV2'
    assert runner.model.teacher.backbone.depth == 50
    assert set(losses_of(runner)) == {'student.loss', 'distill.loss_cakd'}


def test_a_feature_loss_of_your_own(tmp_path):
    config, _ = blocks('README.md', heading='Features, scorers, ratios')
    runner = train_page(config, tmp_path, size=64)
    distiller = runner.model.distiller
    connector = distiller.connectors['feature'].linear
    assert (connector.in_features, connector.out_features) == (1280, 2048)
    assert {'distill.loss_cakd', 'distill.loss_feature'} <= set(losses_of(runner))
    loss = distiller.distill_losses['loss_feature']
    assert type(loss.scorer).__name__ == 'ActivationScorer'
    assert distiller.balancer.ratio == 0.5
    assert distiller.warmup == 1 / 20  # in the first of the page's 20 epochs


def test_a_scorer_of_your_own():
    _, code = blocks('README.md', heading='Features, scorers, ratios')
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
    (code,) = blocks('README.md', heading='The losses from Python')
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
