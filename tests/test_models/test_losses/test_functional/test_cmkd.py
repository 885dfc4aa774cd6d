"""Pearson and Spearman distances and soft ranks: stored, slow and scipy's numbers."""

import math

import goldens
import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch.testing import assert_close

from cakd_mm.models.losses.functional import cmkd
from cakd_mm.models.losses.functional.cmkd import (
    _UnitRows,
    pearson_distance,
    soft_ranks,
    spearman_distance,
)

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
DISTANCES = pytest.mark.parametrize('distance', [pearson_distance, spearman_distance])
SOFTNESS = pytest.mark.parametrize('softness', [0.1, 2.0, 100.0])
FLOAT_MAX = torch.finfo(torch.float32).max
HARD = 1e-6  # soft, but as good as hard
SHAPES = {
    'normal': lambda x: x,
    'wide': lambda x: 100 * x,
    'ties': lambda x: x.round(),
    'constant': torch.zeros_like,
    'even': lambda x: torch.arange(x.shape[1]).to(x).expand_as(x),
    'one far': lambda x: torch.cat((torch.full_like(x[:, :1], 50), 1e-3 * x[:, 1:]), 1),
    'nan': lambda x: torch.where(x == x[1, 0], torch.nan, x),
}


def random_rows(rows=6, classes=9, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(2, rows, classes, generator=draw)).to(dtype).unbind()


def tied_rows(rows=6, classes=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, (2, rows, classes), generator=draw).double().unbind()


def correlations(function, preds_S, preds_T):
    """1 - scipy's correlation of every row."""
    pairs = zip(preds_S.double().numpy(), preds_T.double().numpy(), strict=True)
    return torch.tensor([1 - function(*pair).statistic for pair in pairs]).double()


def slow_ranks(scores, softness):
    """The nearest point of the permutahedron, by the min-max formula of averages."""
    scores = scores.detach().double()
    classes = scores.shape[-1]
    z = (scores - scores.mean(-1, keepdim=True)) / scores.std(
        -1, correction=0, keepdim=True
    )
    z = classes * z / softness
    ranks = torch.empty_like(z)
    for row, out in zip(z, ranks, strict=True):
        ordered, order = row.sort(descending=True)
        y = ordered - torch.arange(classes, 0, -1)
        mean = [
            [y[j : k + 1].mean().item() if j <= k else None for k in range(classes)]
            for j in range(classes)
        ]
        pooled = [
            min(max(mean[j][k] for k in range(i, classes)) for j in range(i + 1))
            for i in range(classes)
        ]
        out[order] = ordered - torch.tensor(pooled, dtype=torch.float64)
    return ranks


# Stored numbers


def case(entry, dtype):
    golden = goldens.load(entry)
    leaf = golden['logits_student'].to(dtype).requires_grad_()
    return golden, leaf, golden['logits_teacher'].to(dtype)


def named(loss, kind):
    """The entries of a loss that are (or are not) of constant rows."""
    constant = kind == 'constant'
    return [
        param
        for param in goldens.cases(loss)
        if param.values[0] is None
        or (param.values[0]['case'] == 'constant row') == constant
    ]


@BOTH
@pytest.mark.parametrize('entry', named('CMKD-Pearson', 'usual'))
def test_pearson_goldens(entry, dtype):
    golden, leaf, teacher = case(entry, dtype)
    rows = pearson_distance(leaf, teacher)
    rows.mean().backward()
    goldens.assert_matches(entry, rows.detach().mean(), leaf.grad)
    rtol = 1e-9 if dtype == torch.float64 else 2e-5
    want = 1 - golden['row_rho']
    assert_close(rows.detach().double(), want, rtol=rtol, atol=rtol)


@BOTH
@pytest.mark.parametrize('softness', [0.0, HARD])
@pytest.mark.parametrize('entry', named('CMKD-Spearman', 'usual'))
def test_spearman_goldens(entry, softness, dtype):
    golden, leaf, teacher = case(entry, dtype)
    rows = spearman_distance(leaf, teacher, softness).detach().double()
    rtol = entry['tolerance'][str(dtype).removeprefix('torch.')]['loss_rtol']
    assert_close(rows.mean(), golden['loss'], rtol=rtol, atol=0)
    assert_close(rows, 1 - golden['row_rho'], rtol=rtol, atol=rtol)


@BOTH
@pytest.mark.parametrize(
    'entry', named('CMKD-Pearson', 'constant') + named('CMKD-Spearman', 'constant')
)
def test_goldens_with_a_constant_row(entry, dtype):
    golden, leaf, teacher = case(entry, dtype)
    if entry['loss'] == 'CMKD-Pearson':
        rows = pearson_distance(leaf, teacher)
    else:
        rows = spearman_distance(leaf, teacher, 0)
        assert_close(spearman_distance(leaf, teacher, HARD), rows)
    constant = golden['row_rho'].isnan()
    assert constant.sum() == 1
    rows.sum().backward()
    assert rows[constant] == 1
    assert not leaf.grad[constant].any()
    want = golden['loss_finite_rows_only']
    assert_close(rows[~constant].double().mean(), want, rtol=2e-5, atol=0)


# Pearson


@BOTH
def test_pearson_is_scipys(dtype):
    preds = random_rows(dtype=dtype)
    want = correlations(stats.pearsonr, *preds).to(dtype)
    assert_close(pearson_distance(*preds), want)


def test_unit_rows_gradcheck():
    """By itself: what the distances feed back has no mean."""
    scores, weights = random_rows()
    assert torch.autograd.gradcheck(
        lambda s: (weights * _UnitRows.apply(s)[0]).sum(-1), scores.requires_grad_()
    )


@DISTANCES
def test_an_offset_costs_no_precision_that_the_scores_have(distance):
    student, teacher = ((512 * p).round() / 512 for p in random_rows())
    want = distance(student, teacher).float()
    got = distance((student + 8000).float(), (teacher - 8000).float())
    assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('scale', [1e-15, 1e-4, 1.0, 1e5, 1e37])
def test_the_size_of_float32_scores_does_not_matter(scale):
    student, teacher = random_rows(dtype=torch.float32)
    leaf = (scale * student).requires_grad_()
    for distance in (pearson_distance, spearman_distance):
        value = distance(leaf, teacher)
        assert_close(value, distance(student, teacher), rtol=1e-4, atol=1e-5)
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        assert grad.any()
        assert grad.isfinite().all()


def test_near_nets_keep_their_relative_precision_in_float32():
    """1 - rho of rounded numbers would be wrong by half here."""
    student, teacher = random_rows()
    student = teacher + 1e-3 * student
    wide = pearson_distance(student, teacher)
    narrow = pearson_distance(student.float(), teacher.float())
    assert wide.max() < 1e-5
    assert_close(narrow.double(), wide, rtol=1e-2, atol=0)


@DISTANCES
@pytest.mark.parametrize('constant', [0.1, 1e30, 0.0])
@pytest.mark.parametrize('net', ['student', 'teacher', 'both'])
def test_a_constant_row_has_distance_one_and_no_gradient(net, constant, distance):
    student, teacher = (preds.clone() for preds in random_rows(dtype=torch.float32))
    if net != 'teacher':
        student[2] = constant
    if net != 'student':
        teacher[2] = constant
    leaf = student.requires_grad_()
    value = distance(leaf, teacher)
    value.sum().backward()
    assert value[2] == 1
    assert not leaf.grad[2].any()
    assert leaf.grad[1].any()
    assert leaf.grad.isfinite().all()


@DISTANCES
def test_one_class_has_no_correlation(distance):
    leaf = torch.ones(3, 1, requires_grad=True)
    value = distance(leaf, torch.zeros(3, 1))
    value.sum().backward()
    assert value.tolist() == [1, 1, 1]
    assert not leaf.grad.any()


# Ranks


@BOTH
@pytest.mark.parametrize('rows', [random_rows, tied_rows])
@pytest.mark.parametrize('softness', [0.0, HARD, 1e-6])
def test_hard_ranks_are_scipys_with_the_average_for_ties(rows, softness, dtype):
    scores = rows()[0].to(dtype)
    want = torch.from_numpy(stats.rankdata(scores.numpy(), axis=1)).to(dtype)
    assert_close(soft_ranks(scores, softness), want, rtol=0, atol=1e-12)


def test_ranks_tell_neighbours_apart_that_normalising_would_not():
    scores = torch.tensor([[0.0, 1e-30, 2e-30, 1.0]])
    assert soft_ranks(scores, 0.0).tolist() == [[1, 2, 3, 4]]


@SOFTNESS
@pytest.mark.parametrize('rows', [random_rows, tied_rows])
def test_soft_ranks_against_the_slow_reference(rows, softness):
    scores = rows()[0]
    want = slow_ranks(scores, softness)
    assert_close(soft_ranks(scores, softness), want)
    narrow = soft_ranks(scores.float(), softness).double()
    assert_close(narrow, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('softness', [0, 0.1, 1, 2, 10])
@pytest.mark.parametrize('classes', [1, 2, 3, 100, 257, 1000])
@pytest.mark.parametrize('shape', SHAPES)
def test_ranks_and_gradients_are_those_of_scipys_blocks(
    shape, classes, softness, monkeypatch
):
    scores = SHAPES[shape](random_rows(4, classes)[0])
    weights = torch.linspace(-1, 1, classes).square()
    found = []
    for _ in range(2):
        leaf = scores.clone().requires_grad_()
        ranks = soft_ranks(leaf, softness)
        (weights * ranks).sum().backward()
        found.append((ranks.detach(), leaf.grad))
        monkeypatch.setattr(cmkd, 'isotonic_regression', scipys_fit)
    assert_close(*found, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert found[0][0].isnan().any(1).tolist() == scores.isnan().any(1).tolist()


@pytest.mark.parametrize('softness', [0.1, 0.5, 2.0])
def test_many_ranks_are_scipys_projection(softness):
    scores, classes = random_rows(4, 1000)[0], 1000
    z = classes / softness * torch.from_numpy(stats.zscore(scores.numpy(), axis=1))
    ordered, order = z.sort(descending=True)
    falling = ordered - torch.arange(classes, 0, -1)
    want = torch.empty_like(z).scatter_(1, order, ordered + scipys_fit(-falling))
    assert_close(soft_ranks(scores, softness), want, rtol=0, atol=1e-9)


def scipys_fit(rows):
    fits = [optimize.isotonic_regression(row).x for row in rows.numpy()]
    return torch.from_numpy(np.stack(fits))


def test_very_soft_ranks_are_the_standardised_scores():
    scores, teacher = random_rows()
    z = (scores - scores.mean(-1, keepdim=True)) / scores.std(
        -1, correction=0, keepdim=True
    )
    assert_close(soft_ranks(scores, 1e3), 5 + 9 * z / 1e3)
    assert_close(
        spearman_distance(scores, teacher, 1e6), pearson_distance(scores, teacher)
    )
    narrow = spearman_distance(scores.float(), teacher.float(), 1e6).double()
    assert_close(narrow, pearson_distance(scores, teacher), rtol=1e-5, atol=1e-5)


@SOFTNESS
def test_soft_ranks_gradcheck(softness):
    scores = random_rows(rows=5)[0].requires_grad_()
    weights = torch.linspace(-1, 2, scores.numel()).view_as(scores).sin()
    assert torch.autograd.gradcheck(
        lambda s: (weights * soft_ranks(s, softness)).sum(-1), scores
    )


def test_spearman_is_the_pearson_of_both_soft_ranks():
    preds = random_rows()
    for softness in (0.0, 1.0, 2.0):
        want = pearson_distance(*(soft_ranks(p, softness) for p in preds))
        assert_close(spearman_distance(*preds, softness), want)
    assert_close(spearman_distance(*preds), spearman_distance(*preds, 2.0))
    assert_close(soft_ranks(preds[0]), soft_ranks(preds[0], 2.0))


@pytest.mark.parametrize('rows', [random_rows, tied_rows])
def test_hard_spearman_is_scipys_and_has_no_gradient(rows):
    student, teacher = rows()
    leaf = student.clone().requires_grad_()
    value = spearman_distance(leaf, teacher, 0.0)
    assert_close(value.detach(), correlations(stats.spearmanr, student, teacher))
    value.sum().backward()
    assert not leaf.grad.any()


def test_a_score_alone_in_its_block_has_no_gradient_at_all():
    """Not even of rounding, which so hard a rank would make large."""
    scores, weights = random_rows()
    leaf = scores.requires_grad_()
    (weights.sin() * soft_ranks(leaf, HARD)).sum().backward()
    assert not leaf.grad.any()


def test_long_rows_need_no_square_of_their_length():
    """A matrix of classes by classes would take 80 GB."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 100_000, generator=draw).unbind()
    leaf = student.requires_grad_()
    value = spearman_distance(leaf, teacher)
    value.sum().backward()
    assert value.sub(1).abs().max() < 0.05
    assert leaf.grad.any()


# Both


@DISTANCES
def test_the_largest_and_the_smallest_numbers(distance):
    tiny = torch.finfo(torch.float32).smallest_normal
    rows = torch.tensor(
        [
            [FLOAT_MAX, 0, -FLOAT_MAX],
            [1e-45, 0, 0],
            [1e-30, 0, 0],
            [tiny, 0, 1],
            [1e-18, 0, 0],
        ]
    )
    teacher = torch.tensor([[3.0, 2.0, 1.0]]).expand(5, 3)
    leaf = rows.requires_grad_()
    value = distance(leaf, teacher)
    value.sum().backward()
    assert value[0] < 1e-6
    assert value[1:3].tolist() == [1, 1]
    assert value.isfinite().all()
    assert leaf.grad.isfinite().all()


@DISTANCES
@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_nan_shows_and_stays_in_its_row(distance, bad):
    student, teacher = random_rows()
    want = distance(student, teacher)
    student[2, 3] = bad
    value = distance(student, teacher)
    assert value[2].isnan()
    rest = [0, 1, 3, 4, 5]
    assert_close(value[rest], want[rest])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@DISTANCES
def test_a_gpu_gives_what_the_cpu_gives(distance):
    student, teacher = random_rows(64, 100, torch.float32)
    here, there = student.clone().requires_grad_(), student.cuda().requires_grad_()
    values = distance(here, teacher), distance(there, teacher.cuda())
    for value in values:
        value.sum().backward()
    assert_close(values[1].cpu(), values[0], rtol=1e-4, atol=1e-5)
    assert_close(there.grad.cpu(), here.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('value', [-1.0, 9e-07, 1.1e6, math.nan, '1'])
def test_a_wrong_regularization_is_named(value):
    message = rf'regularization must be .*got {value!r}; write regularization=2\.0'
    with pytest.raises(ValueError, match=message):
        spearman_distance(*random_rows(), value)
    with pytest.raises(ValueError, match=message):
        soft_ranks(random_rows()[0], value)
