"""The controls FeatureKLLoss and FeatureSquaredLoss, and what all feature losses do."""

import math

import pytest
import torch
from mmrazor.registry import MODELS
from test_cakd_feature_loss import LAID_OUT, pair, value_and_grad
from torch.testing import assert_close

from cakd_mm.models.layout import pool, to_rows
from cakd_mm.models.statistics import RunningNorm

CONTROLS = pytest.mark.parametrize('kind', ['FeatureKLLoss', 'FeatureSquaredLoss'])
EVERY = pytest.mark.parametrize(
    'kind', ['CAKDFeatureLoss', 'FeatureKLLoss', 'FeatureSquaredLoss']
)


def build(kind, **settings):
    return MODELS.build(dict(type=kind, **settings))


def slow_kl(student, teacher, granularity='pooled', tau=4.0):
    total, rows = 0.0, [to_rows(x, granularity).tolist() for x in (student, teacher)]
    for row_S, row_T in zip(*rows, strict=True):
        sums = [sum(math.exp(x / tau) for x in row) for row in (row_S, row_T)]
        for s, t in zip(row_S, row_T, strict=True):
            p_S, p_T = math.exp(s / tau) / sums[0], math.exp(t / tau) / sums[1]
            total += p_T * math.log(p_T / p_S)
    return tau**2 * total / len(rows[0])


def slow_squared(student, teacher, granularity='pooled'):
    total, rows = 0.0, [to_rows(x, granularity).tolist() for x in (student, teacher)]
    for row_S, row_T in zip(*rows, strict=True):
        squares = [(s - t) ** 2 for s, t in zip(row_S, row_T, strict=True)]
        total += sum(squares) / len(squares) / 2
    return total / len(rows[0])


# Values of the controls


@LAID_OUT
@pytest.mark.parametrize('tau', [0.7, 4.0])
def test_the_divergence(granularity, shape, tau):
    student, teacher = pair(shape)
    loss = build('FeatureKLLoss', tau=tau, granularity=granularity, loss_weight=0.5)
    want = slow_kl(student, teacher, granularity, tau)
    assert loss(student, teacher).item() == pytest.approx(0.5 * want, rel=1e-9)
    assert loss.terms['kl'].item() == pytest.approx(want, rel=1e-9)
    assert abs(slow_kl(teacher, student, granularity, tau) / want - 1) > 1e-3


@LAID_OUT
def test_the_squared_difference(granularity, shape):
    student, teacher = pair(shape)
    loss = build('FeatureSquaredLoss', granularity=granularity, loss_weight=3.0)
    want = slow_squared(student, teacher, granularity)
    value, grad = value_and_grad(loss, student, teacher)
    assert value.item() == pytest.approx(3 * want, rel=1e-12)
    assert loss.terms['squared'].item() == pytest.approx(want, rel=1e-12)
    if granularity != 'pooled' or len(shape) < 4:
        assert_close(grad, 3 * (student - teacher) / student.numel())


@CONTROLS
def test_the_defaults(kind):
    student, teacher = pair((4, 7))
    slow = {'FeatureKLLoss': slow_kl, 'FeatureSquaredLoss': slow_squared}[kind]
    loss = build(kind)
    assert loss(student, teacher).item() == pytest.approx(slow(student, teacher))
    assert loss.norm is None
    assert not loss.state_dict()


# What every feature loss does


@EVERY
@pytest.mark.parametrize('shape', [(6, 4), (3, 5, 4), (3, 4, 2, 3)], ids=str)
@pytest.mark.parametrize('momentum', [0.0, 0.3])
def test_both_are_standardised_by_the_teachers_statistics(kind, shape, momentum):
    granularity = 'channel' if len(shape) == 4 else 'pooled'
    settings = dict(granularity=granularity)
    if kind == 'CAKDFeatureLoss':  # the clusters are of the raw feature
        draw = torch.Generator().manual_seed(5)
        scorer = build('RandomScorer')
        scores = torch.rand(shape[0], 4, generator=draw)
        scorer.forward = lambda *_: scores
        settings['scorer'] = scorer
    loss = build(
        kind, standardize=True, channels=4, momentum=momentum, **settings
    ).double()
    scale = torch.tensor([0.1, 1.0, 5.0, 30.0], dtype=torch.float64)
    scale = scale.view(-1, *[1] * (len(shape) - 2)) if len(shape) == 4 else scale
    dim = 1 if len(shape) == 4 else -1
    norm, plain = RunningNorm(4, momentum).double(), build(kind, **settings)
    for step in range(1, 4):
        student, teacher = (scale * (x + step) for x in pair(shape, seed=step))
        norm.update(teacher.movedim(dim, -1).reshape(-1, 4))
        got = value_and_grad(loss, student, teacher)
        normed = norm(teacher, dim)
        want = value_and_grad(lambda x, t=normed: plain(norm(x, dim), t), student)
        assert_close(got, want, rtol=1e-6, atol=1e-9)


@EVERY
def test_an_averaged_map_is_standardised_after_the_average(kind):
    student, teacher = pair((6, 4, 2, 3))
    loss, other = (build(kind, standardize=True, channels=4).double() for _ in '12')
    got = loss(student, teacher)
    assert_close(got, other(pool(student), pool(teacher)))
    assert_close(loss.norm.var, pool(teacher).var(0, correction=0))


@EVERY
def test_a_batch_of_vectors_without_statistics_yet_is_taken_as_it_is(kind):
    student, teacher = pair((4, 7))
    loss = build(kind, standardize=True, channels=7).eval()
    plain = build(kind)(student, teacher)
    assert loss(student, teacher).item() == pytest.approx(plain.item(), rel=1e-3)


@EVERY
def test_a_map_is_averaged_in_single_precision(kind):
    """4 + 1 / 64 is no bfloat16."""
    student, teacher = (x.float() + 4 for x in pair((3, 6, 8, 8), scale=0.5))
    halves = [x.bfloat16() for x in (student, teacher)]
    got = build(kind)(*halves)
    want = build(kind)(*(pool(x.float()) for x in halves))
    assert_close(got, want, rtol=1e-6, atol=0)


@CONTROLS
def test_the_controls_look_at_the_features_only(kind):
    features, loss = pair((4, 7)), build(kind)
    got = loss(*features, torch.zeros(4), torch.zeros(3, 7), torch.zeros(3))
    assert_close(got, loss(*features))
    assert len(loss.terms) == 1


# Mistakes


@EVERY
@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            dict(granularity='pixel'),
            r"granularity.*'spatial'.*'pixel'.*config of {kind}",
        ),
        (dict(standardize=True), r'standardize=True needs channels.*channels=64'),
        (
            dict(standardize=True, channels=3, momentum=2.0),
            r'`momentum` = 2\.0.*from 0',
        ),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else None,
)
def test_wrong_settings_are_named(kind, settings, message):
    with pytest.raises(ValueError, match=message.format(kind=kind)):
        build(kind, **settings)


VECTOR, MAP = torch.zeros(4, 7), torch.zeros(4, 7, 2, 3)


@EVERY
@pytest.mark.parametrize(
    ('settings', 'preds_S', 'preds_T', 'message'),
    [
        pytest.param(
            dict(),
            VECTOR[:, :5],
            VECTOR,
            r'preds_S.*\(4, 5\).*preds_T.*\(4, 7\).*a PooledConnector',
            id='width',
        ),
        pytest.param(
            dict(granularity='spatial'),
            MAP[..., :1],
            MAP,
            r'preds_S.*\(4, 7, 2, 1\).*preds_T.*\(4, 7, 2, 3\).*connector',
            id='size',
        ),
        pytest.param(
            dict(channels=6),
            VECTOR,
            VECTOR,
            r'`channels` = 6.*has 7: \(4, 7\)',
            id='channels',
        ),
        pytest.param(
            dict(channels=3, granularity='channel'),
            MAP,
            MAP,
            r'`channels` = 3.*has 7: \(4, 7, 2, 3\)',
            id='channels-of-a-map',
        ),
        pytest.param(
            dict(granularity='flat'),
            VECTOR,
            VECTOR,
            r"granularity='flat'.*\(4, 7\).*tap a map",
            id='layout',
        ),
    ],
)
def test_wrong_features_are_named(kind, settings, preds_S, preds_T, message):
    with pytest.raises(ValueError, match=message):
        build(kind, **settings)(preds_S, preds_T)


@EVERY
@pytest.mark.parametrize('shape', [(4, 7), (4, 3, 7), (4, 7, 2, 3)], ids=str)
def test_the_right_channels_are_no_mistake(kind, shape):
    student, teacher = pair(shape)
    got = build(kind, channels=7)(student, teacher)
    assert_close(got, build(kind)(student, teacher))
