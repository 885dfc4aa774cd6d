"""CMKDLoss: what its weights and the difficulty do, terms, mistakes."""

import math

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import CMKDLoss
from cakd_mm.models.losses.functional import pearson_distance, spearman_distance

ROWS, CLASSES = 6, 9


def build(**config) -> CMKDLoss:
    return MODELS.build(dict(type='CMKDLoss', **config))


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, ROWS, CLASSES, generator=draw)).double().unbind()


def entropy(preds_T, tau):
    p = (preds_T / tau).softmax(1)
    return -(p * p.log()).sum(1) / math.log(preds_T.shape[1])


def test_the_teachers_entropy_shifts_the_weight_to_the_ranks(logits):
    loss = build(alpha=0.7, beta=2.0, tau=3.0, regularization=1.0, loss_weight=0.3)
    d = entropy(logits[1], 3.0)
    rows = 0.7 * (1 - d) * pearson_distance(*logits)
    rows += 2.0 * d * spearman_distance(*logits, 1.0)
    assert_close(loss(*logits), 0.3 * rows.mean())


def test_the_defaults(logits):
    d = entropy(logits[1], 4.0)
    rows = (1 - d) * pearson_distance(*logits) + d * spearman_distance(*logits, 2.0)
    assert_close(build()(*logits), rows.mean())


def test_a_difficulty_of_all_samples(logits):
    pearson, spearman = pearson_distance(*logits), spearman_distance(*logits)
    for share in (0, 0.25, 1):
        want = ((1 - share) * pearson + share * spearman).mean()
        assert_close(build(difficulty=share)(*logits), want)


def test_the_terms(logits):
    loss = build(alpha=0.5, beta=3.0, loss_weight=0.2)
    loss(*logits)
    want = dict(
        pearson=pearson_distance(*logits).mean(),
        spearman=spearman_distance(*logits).mean(),
        difficulty=entropy(logits[1], 4.0).mean(),
    )
    assert loss.terms.keys() == want.keys()
    for name, term in loss.terms.items():
        assert_close(term, want[name])
    fixed = build(difficulty=0.25)
    fixed(*logits)
    assert_close(fixed.terms['difficulty'].item(), 0.25)


def test_zero_and_one():
    build(alpha=0, beta=0, difficulty=1, regularization=0, loss_weight=0)
    for wrong in (-1.0, math.nan, None):
        with pytest.raises(ValueError, match=f'difficulty must be .*, got {wrong!r}'):
            build(difficulty=wrong)
    with pytest.raises(ValueError, match=r'difficulty must be at most 1, got 1\.5'):
        build(difficulty=1.5)
    with pytest.raises(ValueError, match=r'regularization must be 0 or .*got 9e-07'):
        build(regularization=9e-7)
    with pytest.raises(ValueError, match=r"difficulty .*'entropy'.*got 'margin'"):
        build(difficulty='margin')
