"""decoupled_kl and single_label_kl against stored and slowly computed numbers."""

import math

import goldens
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torch.testing import assert_close

from cakd_mm.models.losses.functional import (
    decoupled_kl,
    single_label_kl,
    weighted_kl,
)

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
TERMS = pytest.mark.parametrize('term', ['bcd', 'scd', 'wcd'])
FLOAT_MAX = torch.finfo(torch.float32).max


def random_problem(rows=6, classes=7, scale=3.0, dtype=torch.float64, seed=0):
    """Scores of student and teacher and a mask, no cluster of it empty."""
    draw = torch.Generator().manual_seed(seed)
    preds_S, preds_T = scale * torch.randn(2, rows, classes, generator=draw).to(dtype)
    mask = torch.rand(rows, classes, generator=draw) < 0.4
    mask[:, 0], mask[:, -1] = True, False
    return preds_S, preds_T, mask


def reference(preds_S: Tensor, preds_T: Tensor, mask: Tensor, tau: float) -> Tensor:
    """BCD, SCD and WCD as (3, N), row by row in float64 and by autograd."""
    tensors = preds_S.double(), preds_T.double(), mask
    rows = [
        torch.stack(_reference_row(student / tau, teacher / tau, strong))
        for student, teacher, strong in zip(*tensors, strict=True)
    ]
    return torch.stack(rows, 1)


def _reference_row(student: Tensor, teacher: Tensor, strong: Tensor) -> list[Tensor]:
    clusters = [cluster for cluster in (strong, ~strong) if cluster.any()]
    masses = [
        torch.stack([scores[c].logsumexp(0) for c in clusters]).log_softmax(0)
        for scores in (student, teacher)
    ]
    terms = [_kl(*masses)]
    for cluster in (strong, ~strong):
        inside = student[cluster], teacher[cluster]
        terms.append(_kl(*(scores.log_softmax(0) for scores in inside)))
    return terms


def _kl(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """KL(teacher || student); 0 for no classes."""
    return (log_teacher.exp() * (log_teacher - log_student)).sum()


def value_and_grad(function, preds_S: Tensor, *args):
    preds_S = preds_S.clone().requires_grad_()
    value = function(preds_S, *args)
    return value.detach(), torch.autograd.grad(value, preds_S)[0]


def total(weights):
    """The sum over rows of the weighted terms of some function."""

    def loss(function, *args):
        pairs = zip(weights, function(*args), strict=True)
        return sum(weight * term.sum() for weight, term in pairs if weight)

    return loss


def assert_like_reference(preds_S, preds_T, mask, tau, rtol, atol=0.0):
    """Compare each term and its gradient with the slow reference's."""
    for number in range(3):
        loss = total([float(number == other) for other in range(3)])
        got = value_and_grad(
            lambda s, loss=loss: loss(decoupled_kl, s, preds_T, mask, tau), preds_S
        )
        want = value_and_grad(
            lambda s, loss=loss: loss(reference, s, preds_T, mask, tau),
            preds_S.double(),
        )
        scale = want[1].abs().max().item()
        assert_close(got[0].double(), want[0], rtol=rtol, atol=atol)
        assert_close(got[1].double(), want[1], rtol=0, atol=rtol * scale + atol)


# Stored numbers


def golden_loss(preds_S, preds_T, mask, hparams):
    """The mean over rows that every golden of CAKD holds, and its terms."""
    terms = decoupled_kl(preds_S, preds_T, mask, hparams['tau'])
    weights = (hparams[name] for name in ('alpha', 'beta', 'gamma'))
    rows = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    return hparams['tau'] ** 2 * rows.mean(), terms


def check_golden(entry, preds_S, preds_T, mask):
    leaf = preds_S.requires_grad_()
    loss, terms = golden_loss(leaf, preds_T, mask, entry['hparams'])
    loss.backward()
    goldens.assert_matches(entry, loss.detach(), leaf.grad)
    tolerance = entry['tolerance'][str(leaf.dtype).removeprefix('torch.')]
    for name, term in terms._asdict().items():
        rows = goldens.load(entry)[f'row_{name}']
        rtol = tolerance['loss_rtol'] * max(1, rows.abs().max())
        assert_close(term.detach().double(), rows, rtol=rtol, atol=rtol)
    names = ('tau', 'alpha', 'beta', 'gamma')
    tau, *weights = (entry['hparams'][name] for name in names)
    leaf = preds_S.detach().requires_grad_()
    loss = tau**2 * weighted_kl(leaf, preds_T, mask, tau, *weights)[0]
    loss.backward()
    goldens.assert_matches(entry, loss.detach(), leaf.grad)


@BOTH
@pytest.mark.parametrize(
    'entry', goldens.cases('CAKD-logit', 'CAKD-feature', 'CAKD-multilabel')
)
def test_goldens(entry, dtype):
    golden = goldens.load(entry)
    preds_S, preds_T = (golden[f'logits_{n}'].to(dtype) for n in ('student', 'teacher'))
    check_golden(entry, preds_S, preds_T, golden['mask'])


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('CAKD-feature', group='features'))
def test_feature_map_goldens(entry, dtype):
    golden = goldens.load(entry)
    # flat: a row per sample; spatial: a row per sample and channel
    dims = {'flat': 1, 'spatial': 2}[entry['hparams']['layout']]
    preds_S, preds_T, mask = (
        golden[name].flatten(dims).flatten(0, -2)
        for name in ('student', 'teacher', 'mask')
    )
    check_golden(entry, preds_S.to(dtype), preds_T.to(dtype), mask)


# Values and gradients


def test_the_temperature_defaults_to_one():
    problem = random_problem()
    assert_close(decoupled_kl(*problem), decoupled_kl(*problem, 1.0), rtol=0, atol=0)


@pytest.mark.parametrize(
    'mask',
    [
        pytest.param([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 0]], id='mixed'),
        pytest.param([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]], id='empty'),
        pytest.param([[1, 0], [0, 1], [0, 0], [1, 1]], id='two-classes'),
        pytest.param([[1], [0]], id='one-class'),
    ],
)
@TERMS
def test_gradcheck(term, mask):
    mask = torch.tensor(mask, dtype=torch.bool)
    preds_S, preds_T, _ = random_problem(*mask.shape)
    assert torch.autograd.gradcheck(
        lambda s: getattr(decoupled_kl(s, preds_T, mask, 1.7), term),
        preds_S.requires_grad_(),
    )


def test_gradients_of_the_rows_are_weighted_apart():
    preds_S, preds_T, mask = random_problem()
    weights = torch.arange(1.0, 19.0, dtype=torch.float64).view(3, 6).sqrt()

    def weighted(function, preds):
        terms = torch.stack(list(function(preds, preds_T, mask, 2.5)))
        return (weights * terms).sum()

    got = value_and_grad(lambda s: weighted(decoupled_kl, s), preds_S)
    assert_close(got, value_and_grad(lambda s: weighted(reference, s), preds_S))


# Properties


@st.composite
def problems(draw):
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    scores = hnp.arrays('f8', shape, elements=st.floats(-60, 60, width=32))
    masks = hnp.arrays(bool, shape)
    arrays = draw(st.tuples(scores, scores, masks))
    tau = draw(st.sampled_from([0.5, 1.0, 3.0, 20.0]))
    return *map(torch.from_numpy, arrays), tau


ANY = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def close(got, want):
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-11)


SHIFT = st.floats(-100, 100, width=16)


@ANY
@given(problems(), SHIFT, SHIFT, st.randoms(use_true_random=False))
def test_properties(problem, shift_S, shift_T, random):
    """What holds of the divergences of any scores."""
    preds_S, preds_T, mask, tau = problem
    terms = bcd, scd, wcd = decoupled_kl(*problem)
    assert torch.stack(terms).min() > -1e-12
    # They add up to plain KD.
    student, teacher = ((preds / tau).log_softmax(1) for preds in (preds_S, preds_T))
    p_S = (teacher.exp() * mask).sum(1)
    plain = (teacher.exp() * (teacher - student)).sum(1)
    close([bcd + p_S * scd + (1 - p_S) * wcd], [plain])
    # Neither a shift of a net's scores nor the order of rows and classes matters.
    close(decoupled_kl(preds_S + shift_S, preds_T + shift_T, mask, tau), terms)
    rows, classes = (list(range(size)) for size in mask.shape)
    random.shuffle(rows), random.shuffle(classes)
    moved = (tensor[rows][:, classes] for tensor in (preds_S, preds_T, mask))
    close(decoupled_kl(*moved, tau), [term[rows] for term in terms])
    # The clusters may swap their names, and the temperature divides the scores.
    close(decoupled_kl(preds_S, preds_T, ~mask, tau), (bcd, wcd, scd))
    close(decoupled_kl(preds_S / tau, preds_T / tau, mask, 1.0), terms)


@ANY
@given(problems())
def test_any_problem_has_the_reference_values_and_gradients(problem):
    assert_like_reference(*problem, rtol=1e-9, atol=1e-11)


# Hostile scores


@pytest.mark.parametrize('tau', [0.5, 3.0])
@pytest.mark.parametrize('scale', [1e3, 1e6])
def test_float32_at_any_scale(scale, tau):
    preds_S, preds_T, mask = random_problem(rows=8, scale=scale, dtype=torch.float32)
    mask[0], mask[1] = False, True
    assert_like_reference(preds_S, preds_T, mask, tau, rtol=1e-5)


@pytest.mark.parametrize('tau', [0.5, 4.0])
def test_a_cluster_far_below_the_other(tau):
    """Confident nets: a softmax over all classes would underflow there."""
    preds_S, preds_T, mask = random_problem(dtype=torch.float32)
    preds_S += 1e5 * mask
    preds_T += 2e5 * mask
    assert_like_reference(preds_S, preds_T, mask, tau, rtol=2e-4)


@pytest.mark.parametrize('tau', [0.25, 4.0])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@TERMS
def test_the_largest_floats(term, dtype, tau):
    draw = torch.Generator().manual_seed(3)
    preds_S, preds_T = (torch.rand(2, 40, 5, generator=draw) < 0.5).to(dtype) * 2 - 1
    preds_S, preds_T = (p * torch.finfo(dtype).max for p in (preds_S, preds_T))
    mask = torch.rand(40, 5, generator=draw) < 0.4
    value, grad = value_and_grad(
        lambda s: getattr(decoupled_kl(s, preds_T, mask, tau), term).mean(), preds_S
    )
    assert grad.isfinite().all()
    assert not value.isnan()
    if dtype != torch.float64:  # float64 has room for their exact distances
        _, want = value_and_grad(
            lambda s: getattr(
                decoupled_kl(s, preds_T.double(), mask, tau), term
            ).mean(),
            preds_S.double(),
        )
        assert_close(grad.double(), want, rtol=1e-3, atol=1e-6)


def test_scores_of_minus_infinity_are_classes_left_out():
    preds_S, preds_T, mask = random_problem()
    less = decoupled_kl(preds_S[:, :-2], preds_T[:, :-2], mask[:, :-2], 2.0)
    preds_S[:, -2:] = preds_T[:, -2:] = -math.inf
    close(decoupled_kl(preds_S, preds_T, mask, 2.0), less)


@pytest.mark.parametrize('tau', [4.0, 16.0])
def test_nearly_equal_features_keep_their_digits(tau):
    """The usual formula is a hundred times as far off as this tolerance."""
    draw = torch.Generator().manual_seed(0)
    preds_T = torch.randn(32, 256, generator=draw).abs() / 2
    preds_S = preds_T + 0.1 * torch.randn(32, 256, generator=draw)
    mask = preds_T > preds_T.median()
    got = torch.stack(decoupled_kl(preds_S, preds_T, mask, tau)).double().sum(1)
    want = reference(preds_S, preds_T, mask, tau).sum(1)
    assert_close(got, want, rtol=1e-5 * tau, atol=0)


# Precision


def test_mixed_precision_takes_the_wider():
    preds_S, preds_T, mask = random_problem(dtype=torch.float32)
    want = decoupled_kl(preds_S.double(), preds_T.double(), mask, 2.0)
    assert_close(decoupled_kl(preds_S, preds_T.double(), mask, 2.0), want)


# Autograd, memory, devices


@pytest.mark.parametrize('single', [False, True])
def test_a_second_derivative_is_refused(single):
    preds_S, preds_T, mask = random_problem()
    preds_S.requires_grad_()
    if single:
        loss = single_label_kl(preds_S, preds_T, torch.arange(6))
    else:
        loss = decoupled_kl(preds_S, preds_T, mask).wcd.square().sum()
    with pytest.raises(RuntimeError, match='cannot be differentiated once more'):
        torch.autograd.grad(loss**2, preds_S, create_graph=True)


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split('.')[:2])) < (2, 4),
    reason='torch.compile takes autograd functions of several outputs from 2.4 on',
)
@pytest.mark.parametrize('single', [False, True])
def test_compiles_to_one_graph(single):
    preds_S, preds_T, mask = random_problem(dtype=torch.float32)

    def loss(preds, third):
        if single:
            return single_label_kl(preds, preds_T, third, 2.0, 1.0, 8.0)
        bcd, scd, wcd = decoupled_kl(preds, preds_T, third, 2.0)
        return (bcd + 2 * scd + 8 * wcd).mean()

    third = torch.arange(6) if single else mask
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend='aot_eager', fullgraph=True)
    got, want = (value_and_grad(f, preds_S, third) for f in (compiled, loss))
    assert_close(got, want, rtol=1e-6, atol=1e-7)


# One label


@pytest.mark.parametrize('classes', [1, 2, 7])
@pytest.mark.parametrize('weights', [(1.0, 8.0), (0.5, 0.0), (0.0, 3.0)])
@BOTH
def test_a_single_label_is_a_mask_of_one(dtype, weights, classes):
    preds_S, preds_T, _ = random_problem(9, classes, dtype=dtype)
    labels = torch.arange(9) % classes
    mask = labels[:, None] == torch.arange(classes)
    alpha, gamma = weights

    def by_mask(preds):
        bcd, _, wcd = decoupled_kl(preds, preds_T, mask, 2.5)
        return (alpha * bcd + gamma * wcd).mean()

    def by_label(preds):
        return single_label_kl(preds, preds_T, labels, 2.5, alpha, gamma)

    got, want = value_and_grad(by_label, preds_S), value_and_grad(by_mask, preds_S)
    assert got[0].dtype == dtype
    assert_close(got, want)


@pytest.mark.parametrize('tau', [0.5, 4.0])
@pytest.mark.parametrize('scale', [1e4, 1e6, FLOAT_MAX])
def test_a_single_label_at_any_scale(scale, tau):
    draw = torch.Generator().manual_seed(5)
    preds_S, preds_T = scale * (torch.rand(2, 30, 6, generator=draw) * 2 - 1)
    labels = torch.arange(30) % 6

    def loss(preds):
        return single_label_kl(preds, preds_T.to(preds.dtype), labels, tau)

    got = value_and_grad(loss, preds_S)
    want = value_and_grad(loss, preds_S.double())
    assert_close(got[1].double(), want[1], rtol=1e-4, atol=1e-6)
    if scale < FLOAT_MAX:
        assert_close(got[0].double(), want[0], rtol=1e-6, atol=0)


# Mistakes

SCORES, MASK = torch.zeros(8, 10), torch.zeros(8, 10, dtype=torch.bool)


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (dict(preds_T=torch.zeros(8, 100)), ValueError, r'preds_T \(8, 100\).*num_cl'),
        (dict(preds_T=torch.zeros(4, 10)), ValueError, r'preds_S.*\(8, 10\).*\(4, 10'),
        (dict(preds_S=torch.zeros(8, 3, 4, 4)), ValueError, r'preds_S.*\(8, 3, 4, 4\)'),
        (dict(preds_T=torch.zeros(8)), ValueError, r'preds_T.*\(8,\).*\(N, C\)'),
        (dict(preds_S=MASK), TypeError, r'preds_S.*float tensor.*torch\.bool'),
        (dict(strong_mask=SCORES), TypeError, r'strong_mask.*torch\.float32.*> 0'),
        (dict(strong_mask=MASK[:, :9]), ValueError, r'strong_mask.*\(8, 9\).*\(8, 10'),
        (dict(tau=0), ValueError, r'tau must be positive.*got 0; write tau='),
        (dict(tau=1e-45), ValueError, r'tau must be .*from 1e-06 to 1e\+06, got 1e-45'),
        (dict(tau=1.1e6), ValueError, r'tau must be .*got 1100000'),
        (dict(tau=math.nan), ValueError, r'tau.*got nan'),
        (dict(tau='4'), TypeError, r"tau must be a number, got '4'"),
    ],
)
def test_mistakes_are_named(change, error, message):
    arguments = dict(preds_S=SCORES, preds_T=SCORES, strong_mask=MASK, tau=1.0)
    with pytest.raises(error, match=message):
        decoupled_kl(**(arguments | change))
    if 'strong_mask' not in change:
        del arguments['strong_mask']
        labels = torch.zeros(8, dtype=torch.int64)
        with pytest.raises(error, match=message):
            single_label_kl(**(arguments | change), labels=labels)
