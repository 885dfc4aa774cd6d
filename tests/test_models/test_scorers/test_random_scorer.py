"""RandomScorer: chance, and no more."""

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.layout import strongest


def build():
    return MODELS.build(dict(type='RandomScorer'))


@pytest.mark.parametrize('shape', [(4, 9), (4, 9, 5)], ids=str)
def test_a_score_per_channel_whatever_the_feature(shape):
    torch.manual_seed(3)
    scores = build()(torch.zeros(shape))
    assert scores.shape == (4, 9)
    assert scores.unique().numel() == 36
    torch.manual_seed(3)
    assert_close(build()(torch.randn(shape, generator=torch.Generator())), scores)


def test_steps_differ_and_a_seed_brings_them_back():
    scorer, feature, steps = build(), torch.zeros(4, 9), []
    for _ in range(2):
        torch.manual_seed(7)
        steps.append(torch.stack([scorer(feature) for _ in range(3)]))
    assert_close(*steps, rtol=0, atol=0)
    first, second, third = steps[0]
    assert not first.equal(second) and not second.equal(third)


def test_every_channel_is_strong_as_often_as_any_other_and_so_is_every_pair():
    torch.manual_seed(0)
    mask = strongest(build()(torch.zeros(4000, 4)), 2)
    # five standard errors of 4000 draws
    assert_close(mask.float().mean(0), torch.full((4,), 0.5), rtol=0, atol=0.04)
    together = (mask[:, 0] & mask[:, 1]).float().mean().item()
    assert together == pytest.approx(1 / 6, abs=0.03)
    assert (mask[0] != mask).any()


def test_it_needs_nothing():
    scorer = build()
    assert scorer.needs == ()
    assert scorer.elementwise
    assert scorer.auxiliary is None
    assert not scorer.state_dict()
