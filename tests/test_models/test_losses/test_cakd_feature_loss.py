"""CAKDFeatureLoss against stored numbers and loops over rows and elements."""

import inspect
import itertools
import math

import goldens
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from mmrazor.registry import MODELS
from torch.func import functional_call
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from cakd_mm.models.layout import to_rows
from cakd_mm.models.losses import CAKDFeatureLoss, cakd_feature_loss
from cakd_mm.models.losses.cakd_feature_loss import kept
from cakd_mm.models.losses.functional import decoupled_kl
from cakd_mm.models.scorers import BaseScorer

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
WEIGHTS = dict(tau=2.5, alpha=0.7, beta=5.0, gamma=1.5)
SHARE = 0.4
NETS = ('student', 'teacher')
# One case per layout: granularity and shape of the feature; N != C everywhere.
LAYOUTS = {
    'vector': ('pooled', (4, 7)),
    'averaged': ('pooled', (2, 6, 2, 3)),
    'tokens': ('pooled', (2, 3, 6)),
    'channel': ('channel', (2, 6, 2, 3)),
    'spatial': ('spatial', (2, 3, 2, 4)),
    'flat': ('flat', (3, 2, 2, 3)),
}
LAID_OUT = pytest.mark.parametrize(
    ('granularity', 'shape'),
    [pytest.param(*case, id=name) for name, case in LAYOUTS.items()],
)


def build(**settings) -> CAKDFeatureLoss:
    return MODELS.build(dict(type='CAKDFeatureLoss', **settings))


class FixedScorer(BaseScorer):
    """Scores that were written down."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, feature, gt_labels=None, head_weight=None):
        return self.scores.to(feature.dtype)


def pair(shape, seed=0, scale=2.0):
    """A student's and a teacher's feature, of both signs, far apart."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(
        scale * torch.randn(shape, generator=draw, dtype=torch.float64) for _ in 'ST'
    )


def value_and_grad(loss, student, *args, **kwargs):
    leaf = student.clone().requires_grad_()
    value = loss(leaf, *args, **kwargs)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


# The slow reference


def slow_pool(feature):
    samples, channels, height, width = feature.shape
    places = list(itertools.product(range(height), range(width)))
    rows = [
        torch.stack([sum(feature[n, c, y, x] for y, x in places) / len(places)])
        for n in range(samples)
        for c in range(channels)
    ]
    return torch.cat(rows).view(samples, channels)


def slow_rows(shape, granularity):
    """Return (sample, indices of the row's elements) of every row."""
    samples, others = range(shape[0]), [range(size) for size in shape[1:]]
    if len(shape) == 2:
        return [(n, [(n, c) for c in others[0]]) for n in samples]
    if len(shape) == 3:
        tokens, channels = others
        return [(n, [(n, i, c) for c in channels]) for n in samples for i in tokens]
    channels, height, width = others
    places = list(itertools.product(height, width))
    if granularity == 'channel':
        return [(n, [(n, c, *p) for c in channels]) for n in samples for p in places]
    if granularity == 'spatial':
        return [(n, [(n, c, *p) for p in places]) for n in samples for c in channels]
    return [(n, [(n, c, *p) for c in channels for p in places]) for n in samples]


def slow_marks(teacher, granularity, share):
    """Which elements of every row are strong: magnitude, by sorting."""
    rows = slow_rows(teacher.shape, granularity)
    marks = []
    for sample, indices in rows:
        mates = [index for other, index in rows if other == sample]
        if granularity in ('spatial', 'flat'):
            mates = [indices]  # elements compete within their row
        scores = [
            sum(abs(teacher[index[e]].item()) for index in mates)
            for e in range(len(indices))
        ]
        count = math.floor(share * len(scores) + 0.5)
        best = sorted(range(len(scores)), key=lambda e: -scores[e])[:count]
        marks.append([e in best for e in range(len(scores))])
    return marks


def slow_terms(student, teacher, marks, tau):
    """BCD, SCD, WCD and the teacher's P_S of one row, as they are defined."""
    p_S, p_T = ((scores / tau).softmax(0) for scores in (student, teacher))
    strong = torch.tensor(marks)
    terms = []
    masses = [[p[c].sum() for c in (strong, ~strong)] for p in (p_S, p_T)]
    terms.append(sum(t * (t / s).log() for s, t in zip(*masses, strict=True)))
    for number, cluster in enumerate((strong, ~strong)):
        q_S, q_T = p_S[cluster] / masses[0][number], p_T[cluster] / masses[1][number]
        terms.append((q_T * (q_T / q_S).log()).sum())
    return *terms, masses[1][0]


def slow(student, teacher, granularity='pooled', share=SHARE, marks=None, tau=2.5):
    """Terms and mass of every row as (4, R); float64, by autograd."""
    if granularity == 'pooled' and student.dim() == 4:
        student, teacher = slow_pool(student), slow_pool(teacher)
    rows = slow_rows(student.shape, granularity)
    if marks is None:
        marks = slow_marks(teacher, granularity, share)
    found = [
        torch.stack(
            slow_terms(
                torch.stack([student[index] for index in indices]),
                torch.stack([teacher[index] for index in indices]),
                row_marks,
                tau,
            )
        )
        for (_, indices), row_marks in zip(rows, marks, strict=True)
    ]
    return torch.stack(found, 1)


def slow_loss(student, teacher, *args, tau=2.5, alpha=0.7, beta=5.0, gamma=1.5, **kw):
    bcd, scd, wcd, _ = slow(student, teacher, *args, tau=tau, **kw)
    return tau**2 * (alpha * bcd + beta * scd + gamma * wcd).mean()


# Stored numbers


def golden_weights(entry):
    return {name: entry['hparams'][name] for name in ('tau', 'alpha', 'beta', 'gamma')}


def by_equal_counts(entry, student, teacher, mask, granularity, as_feature):
    """The golden's loss, from CAKDFeatureLoss for all rows with as many strong ones.

    Rows without one of the clusters, which the loss cannot have, are left to
    the function below it.
    """
    elements, total = mask.shape[1], 0.0
    for count in mask.sum(1).unique().tolist():
        chosen = mask.sum(1) == count
        rows = student[chosen], teacher[chosen]
        if 0 < count < elements:
            loss = build(
                strong_share=count / elements,
                scorer=FixedScorer(mask[chosen].float()),
                granularity=granularity,
                **golden_weights(entry),
            )
            value = loss(*map(as_feature, rows))
        else:
            value = from_rows(entry, *rows, mask[chosen])
        total = total + value * int(chosen.sum()) / len(mask)
    return total


def from_rows(entry, rows_S, rows_T, mask):
    weights = golden_weights(entry)
    bcd, scd, wcd = decoupled_kl(rows_S, rows_T, mask, weights['tau'])
    rows = weights['alpha'] * bcd + weights['beta'] * scd + weights['gamma'] * wcd
    return weights['tau'] ** 2 * rows.mean()


def check_golden(entry, student, loss):
    leaf = student.clone().requires_grad_()
    value = loss(leaf)
    value.backward()
    goldens.assert_matches(entry, value.detach(), leaf.grad)


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('CAKD-feature'))
def test_goldens_of_vectors(entry, dtype):
    golden = goldens.load(entry)
    student, teacher = (golden[f'logits_{net}'].to(dtype) for net in NETS)
    check_golden(
        entry,
        student,
        lambda s: by_equal_counts(
            entry, s, teacher, golden['mask'], 'pooled', lambda rows: rows
        ),
    )


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('CAKD-feature', group='features'))
def test_goldens_of_maps(entry, dtype):
    golden, layout = goldens.load(entry), entry['hparams']['layout']
    student, teacher = (golden[net].to(dtype) for net in NETS)
    mask = to_rows(golden['mask'], layout)
    rows_T = to_rows(teacher, layout)
    check_golden(
        entry, student, lambda s: from_rows(entry, to_rows(s, layout), rows_T, mask)
    )
    # a row as a map: of one channel ('spatial'), or whole
    size = (-1, *golden['mask'].shape[{'spatial': 2, 'flat': 1}[layout] :])
    size = (-1, 1, *size[1:]) if layout == 'spatial' else size
    check_golden(
        entry,
        student,
        lambda s: by_equal_counts(
            entry,
            to_rows(s, layout),
            rows_T,
            mask,
            layout,
            lambda rows: rows.view(size),
        ),
    )


# Value, gradient and clusters against the loops


@LAID_OUT
@pytest.mark.parametrize('share', [0.3, 0.5, 0.75])
def test_value_gradient_and_terms(granularity, shape, share):
    student, teacher = pair(shape)
    loss = build(strong_share=share, granularity=granularity, **WEIGHTS)
    got = value_and_grad(loss, student, teacher)
    want = value_and_grad(slow_loss, student, teacher, granularity, share)
    assert_close(got, want, rtol=1e-9, atol=1e-11)
    bcd, scd, wcd, mass = slow(student, teacher, granularity, share)
    scale = WEIGHTS['tau'] ** 2
    want = dict(bcd=bcd * scale, scd=scd * scale, wcd=wcd * scale, strong_mass=mass)
    for name, rows in want.items():
        assert_close(loss.terms[name], rows.mean(), rtol=1e-9, atol=1e-11)
    assert set(loss.terms) == {*want, 'r'}


@LAID_OUT
def test_float32(granularity, shape):
    student, teacher = pair(shape)
    loss = build(granularity=granularity, strong_share=SHARE, **WEIGHTS)
    value, grad = value_and_grad(loss, student.float(), teacher.float())
    want = value_and_grad(slow_loss, student, teacher, granularity)
    assert value.dtype == grad.dtype == torch.float32
    assert_close((value.double(), grad.double()), want, rtol=2e-5, atol=1e-5)


@st.composite
def vectors(draw):
    rows, elements = draw(st.integers(1, 3)), draw(st.integers(2, 7))
    student = hnp.arrays('f8', (rows, elements), elements=st.floats(-8, 8, width=32))
    teacher = hnp.arrays(
        'f8',
        (rows, elements),
        elements=st.floats(0.0625, 8, width=32),
        unique=True,
    )
    count = draw(st.integers(1, elements - 1))
    arrays = map(torch.from_numpy, draw(st.tuples(student, teacher)))
    return *arrays, count / elements, draw(st.sampled_from([0.5, 2.0, 6.0]))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(vectors())
def test_any_vectors(problem):
    student, teacher, share, tau = problem
    weights = WEIGHTS | dict(tau=tau)
    loss = build(strong_share=share, **weights)
    got = value_and_grad(loss, student, teacher)
    want = value_and_grad(slow_loss, student, teacher, 'pooled', share, **weights)
    assert_close(got, want, rtol=1e-8, atol=1e-10)


@LAID_OUT
def test_neither_nets_nor_clusters_are_interchangeable(granularity, shape):
    student, teacher = pair(shape)
    loss = build(granularity=granularity, strong_share=0.5, **WEIGHTS)
    got = loss(student, teacher)
    assert_close(got, slow_loss(student, teacher, granularity, 0.5))
    swapped = slow_loss(teacher, student, granularity, 0.5)
    assert (swapped / got - 1).abs() > 0.01
    assert_close(loss(teacher, student), swapped)
    pooled = [
        slow_pool(x) if granularity == 'pooled' and x.dim() == 4 else x
        for x in (student, teacher)
    ]
    marks = slow_marks(pooled[1], granularity, 0.5)
    weak = [[not mark for mark in row] for row in marks]
    others = slow_marks(pooled[0], granularity, 0.5)  # the student's
    for wrong in (weak, others):
        value = slow_loss(student, teacher, granularity, marks=wrong)
        assert (value / got - 1).abs() > 1e-3


def test_the_teachers_clusters_whatever_the_student_is():
    """Only SCD is weighted, and the student is right outside of S."""
    _, teacher = pair((4, 8))
    marks = torch.tensor(slow_marks(teacher, 'pooled', 0.5))
    loss = build(tau=3.0, alpha=0.0, beta=2.0, gamma=0.0)
    nudged = teacher + 50 * torch.linspace(0, 1, 8) * ~marks  # now the largest
    assert loss(nudged, teacher).abs() < 1e-12
    inside = teacher + torch.linspace(0, 1, 8) * marks
    assert loss(inside, teacher) > 1e-3


@LAID_OUT
@pytest.mark.parametrize('share', [0.15, 0.37, 0.5, 0.62, 0.8])
def test_exactly_the_share_is_strong(granularity, shape, share, monkeypatch):
    seen = []
    spied = cakd_feature_loss.weighted_kl

    def spy(rows_S, rows_T, mask, *settings, **options):
        seen.append(mask)
        return spied(rows_S, rows_T, mask, *settings, **options)

    monkeypatch.setattr(cakd_feature_loss, 'weighted_kl', spy)
    student, teacher = pair(shape)
    build(granularity=granularity, strong_share=share)(student, teacher)
    if granularity == 'pooled' and teacher.dim() == 4:
        teacher = slow_pool(teacher)
    elements = seen[0].shape[1]
    assert seen[0].sum(1).unique().tolist() == [math.floor(share * elements + 0.5)]
    assert seen[0].tolist() == slow_marks(teacher, granularity, share)


@pytest.mark.parametrize(
    ('elements', 'share', 'count'),
    [
        (64, 0.5, 32),
        (7, 0.5, 4),
        (10, 0.25, 3),
        (10, 0.24, 2),
        (3, 0.2, 1),
        (2, 0.7, 1),
    ],
)
def test_the_share_is_rounded(elements, share, count):
    assert build(strong_share=share).count(elements) == count


@pytest.mark.parametrize(
    ('elements', 'share', 'cluster'),
    [(4, 0.1, 'strong'), (4, 0.9, 'weak'), (1, 0.4, 'strong'), (1, 0.5, 'weak')],
)
def test_a_share_that_empties_a_cluster(elements, share, cluster):
    student, teacher = pair((3, elements))
    message = rf'strong_share={share} of {elements} elements.*the {cluster} cluster'
    with pytest.raises(ValueError, match=message):
        build(strong_share=share)(student, teacher)


def test_the_suggested_shares_work():
    student, teacher = pair((3, 8))
    with pytest.raises(ValueError, match='between 0.062 and 0.94'):
        build(strong_share=0.01)(student, teacher)
    for share in (0.063, 0.93):
        assert build(strong_share=share)(student, teacher) > 0


# Identities


@LAID_OUT
def test_the_teachers_masses_as_weights_give_the_plain_divergence(granularity, shape):
    """For each sample alone, since the weights of a loss are one for all rows."""
    student, teacher = pair(shape)
    tau = 1.7
    for sample in range(shape[0]):
        rows = [
            to_rows(x[sample : sample + 1], granularity) for x in (student, teacher)
        ]
        for row_S, row_T in zip(*rows, strict=True):
            marks = slow_marks(row_T[None], 'pooled', SHARE)[0]
            mass = (row_T / tau).softmax(0)[torch.tensor(marks)].sum().item()
            loss = build(
                tau=tau, alpha=1, beta=mass, gamma=1 - mass, strong_share=SHARE
            )
            got = value_and_grad(loss, row_S[None], row_T[None])
            want = value_and_grad(
                lambda s, t=row_T[None]: (
                    tau**2
                    * torch.nn.functional.kl_div(
                        (s / tau).log_softmax(1),
                        (t / tau).log_softmax(1),
                        reduction='batchmean',
                        log_target=True,
                    )
                ),
                row_S[None],
            )
            assert_close(got, want, rtol=1e-9, atol=1e-12)


@LAID_OUT
def test_the_limit_of_a_high_temperature(granularity, shape):
    """cakd.md: a squared error, centred in each cluster."""
    student, teacher = pair(shape)
    loss = build(tau=1e4, granularity=granularity, strong_share=SHARE)
    loss(student, teacher)
    difference, rows_T = (to_rows(x, granularity) for x in (student - teacher, teacher))
    if granularity == 'pooled' and teacher.dim() == 4:
        teacher = slow_pool(teacher)
    marks = slow_marks(teacher, granularity, SHARE)
    want = {'bcd': [], 'scd': [], 'wcd': []}
    for row, row_marks in zip(difference.tolist(), marks, strict=True):
        strong = [d for d, mark in zip(row, row_marks, strict=True) if mark]
        weak = [d for d, mark in zip(row, row_marks, strict=True) if not mark]
        p = len(strong) / len(row)
        want['scd'].append(np.var(strong) / 2)
        want['wcd'].append(np.var(weak) / 2)
        want['bcd'].append(p * (1 - p) * (np.mean(strong) - np.mean(weak)) ** 2 / 2)
    assert len(rows_T) == len(marks)
    for name, rows in want.items():
        assert loss.terms[name].item() == pytest.approx(np.mean(rows), rel=2e-3)
        assert np.mean(rows) > 1e-3


@LAID_OUT
def test_equal_features_have_no_loss(granularity, shape):
    _, teacher = pair(shape)
    value, grad = value_and_grad(build(granularity=granularity), teacher, teacher)
    assert value.abs() < 1e-12
    assert grad.abs().max() < 1e-12


@pytest.mark.parametrize('only', ['alpha', 'beta', 'gamma'])
def test_each_weight_belongs_to_its_term(only):
    student, teacher = pair((4, 7))
    weights = dict(alpha=0.0, beta=0.0, gamma=0.0) | {only: 2.0}
    got = build(tau=3.0, loss_weight=0.25, strong_share=SHARE, **weights)
    want = slow_loss(student, teacher, tau=3.0, **weights)
    assert want > 0
    assert_close(got(student, teacher), 0.25 * want)


def test_the_defaults():
    student, teacher = pair((4, 7))
    want = slow_loss(
        student, teacher, share=0.5, tau=4.0, alpha=1.0, beta=8.0, gamma=2.0
    )
    assert_close(build()(student, teacher), want)
    assert build().norm is None


def test_clusters_are_of_the_raw_feature_also_if_it_is_standardised():
    student, teacher = pair((6, 4))
    teacher[:, 0] += 40  # always strong raw, seldom so in standard deviations
    loss = build(
        tau=3.0, standardize=True, channels=4, strong_share=0.25, momentum=1.0
    ).double()
    got = loss(student, teacher)
    mean, deviation = teacher.mean(0), (teacher.var(0, correction=0) + 1e-5).sqrt()
    rows = ((x - mean) / deviation for x in (student, teacher))
    want = slow_loss(
        *rows,
        marks=[[True, False, False, False]] * 6,
        **dict(tau=3.0, alpha=1.0, beta=8.0, gamma=2.0),
    )
    assert_close(got, want, rtol=1e-6, atol=0)


# Through a connector


def connected(connector, loss):
    names = [name for name, _ in connector.named_parameters()]

    def function(feature, teacher, *parameters):
        state = dict(zip(names, parameters, strict=True))
        return loss(functional_call(connector, state, (feature,)), teacher)

    return function


CONNECTED = [
    pytest.param(
        dict(type='PooledConnector', in_channels=3, out_channels=5),
        'pooled',
        (2, 3, 2, 2),
        (2, 5),
        (2, 5),
        id='pooled',
    ),
    pytest.param(
        dict(type='MapConnector', in_channels=2, out_channels=3, size=2),
        'spatial',
        (2, 2, 4, 4),
        (2, 3, 2, 2),
        (6, 4),
        id='spatial',
    ),
    pytest.param(
        dict(type='MapConnector', in_channels=2, out_channels=5, size=(2, 3)),
        'channel',
        (2, 2, 1, 2),
        (2, 5, 2, 3),
        (2, 5),
        id='channel-enlarged',
    ),
]


@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize(
    ('connector', 'granularity', 'small', 'large', 'size'), CONNECTED
)
def test_gradcheck_through_a_connector(
    connector, granularity, small, large, size, standardize
):
    torch.manual_seed(0)
    connector = MODELS.build(connector).double()
    scores = torch.rand(size, generator=torch.Generator().manual_seed(3))
    loss = build(
        granularity=granularity,
        scorer=FixedScorer(scores),
        standardize=standardize,
        channels=large[1],
        momentum=1.0,
        **WEIGHTS,
    ).double()
    feature, teacher = pair(small)[0], pair(large, seed=1)[1]
    parameters = [p.detach().clone().requires_grad_() for p in connector.parameters()]
    inputs = feature.requires_grad_(), teacher, *parameters
    assert torch.autograd.gradcheck(connected(connector, loss), inputs)


@pytest.mark.parametrize('trained', [False, True])
@LAID_OUT
def test_the_student_gets_a_gradient_and_the_teacher_none(granularity, shape, trained):
    student, teacher = pair(shape)
    student.requires_grad_(trained)
    teacher.requires_grad_()
    value = build(granularity=granularity)(student, teacher * 1)
    assert value.requires_grad == trained
    if trained:
        value.backward()
        assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize('standardize', [False, True])
def test_no_teacher_to_train_through_the_statistics(standardize):
    student, teacher = pair((4, 7))
    teacher.requires_grad_()
    loss = build(standardize=standardize, channels=7, gamma='adaptive')
    loss._checked_sign = True
    value = loss(student.requires_grad_(), teacher)
    assert torch.autograd.grad(value, teacher, allow_unused=True) == (None,)


# Scorers


class AskingScorer(BaseScorer):
    """Writes down what it was given."""

    elementwise = False
    needs = ('gt_labels', 'head_weight')

    def forward(self, feature, gt_labels=None, head_weight=None):
        self.given = feature, gt_labels, head_weight
        self.terms = {'asked': torch.tensor(7.0)}
        self.auxiliary = feature.sum()
        return feature.mean(-1) if feature.dim() == 3 else feature

    def warning(self, terms):
        return f'asked {terms["asked"]}'


def test_a_scorer_gets_what_it_needs_and_its_words_are_passed_on():
    student, teacher = pair((4, 7))
    labels, weight = torch.tensor([0, 2, 1, 2]), torch.randn(3, 7)
    loss = build(scorer=AskingScorer())
    assert loss.auxiliary is None
    loss(student, teacher.requires_grad_(), labels, weight)
    feature, gt_labels, head_weight = loss.scorer.given
    assert feature.tolist() == teacher.tolist() and not feature.requires_grad
    assert gt_labels is labels and head_weight is weight
    assert loss.terms['asked'] == 7
    assert loss.auxiliary is loss.scorer.auxiliary
    assert loss.warning({'asked': 1.0}) == 'asked 1.0'


@pytest.mark.parametrize(
    ('missing', 'source'),
    [
        ('gt_labels', r"recorder='gt_labels', from_student=True"),
        ('head_weight', r"recorder='head_weight', from_student=False"),
    ],
)
def test_what_a_scorer_lacks_is_named(missing, source):
    student, teacher = pair((4, 7))
    given = dict(gt_labels=torch.zeros(4).long(), head_weight=torch.zeros(3, 7))
    del given[missing]
    with pytest.raises(ValueError, match=rf'AskingScorer needs {missing}.*{source}'):
        build(scorer=AskingScorer())(student, teacher, **given)


@pytest.mark.parametrize('granularity', ['spatial', 'flat'])
@pytest.mark.parametrize(
    'scorer',
    [
        dict(type='ClassifierScorer'),
        dict(type='ScoringNetwork', channels=4, num_classes=3),
    ],
    ids=lambda scorer: scorer['type'],
)
def test_scorers_of_channels_score_no_elements(scorer, granularity):
    message = rf"{scorer['type']} scores channels.*granularity='{granularity}'.*pooled"
    with pytest.raises(ValueError, match=message):
        build(scorer=scorer, granularity=granularity)


# The terms


def test_the_terms_carry_no_weight_and_no_gradient():
    student, teacher = pair((4, 7))
    loss = build(loss_weight=0.3, strong_share=SHARE, **WEIGHTS)
    weight = torch.randn(3, 7).double()
    value = loss(student.requires_grad_(), teacher, None, weight)
    assert set(loss.terms) == {
        *('bcd', 'scd', 'wcd', 'strong_mass', 'r'),
        *('kept_strong', 'kept_weak', 'kept_random'),
    }
    for term in loss.terms.values():
        assert term.dim() == 0 and not term.requires_grad
    names = dict(alpha='bcd', beta='scd', gamma='wcd')
    parts = [WEIGHTS[weight] * loss.terms[name] for weight, name in names.items()]
    assert_close(value.detach(), 0.3 * sum(parts))


def test_the_strong_mass_is_the_teachers_at_the_temperature():
    student, teacher = pair((5, 8))
    loss = build(tau=1.5, strong_share=0.25)
    loss(student, teacher)
    masses = []
    for row, marks in zip(
        teacher.tolist(), slow_marks(teacher, 'pooled', 0.25), strict=True
    ):
        weights = [math.exp(x / 1.5) for x in row]
        strong = [w for w, mark in zip(weights, marks, strict=True) if mark]
        masses.append(sum(strong) / sum(weights))
    assert loss.terms['strong_mass'].item() == pytest.approx(np.mean(masses))


def slow_kept(feature, marks, weight, bias):
    """The share of rows whose prediction survives, of S and of W."""
    same = [0, 0]
    for row, strong in zip(feature.tolist(), marks, strict=True):

        def predict(seen, row=row):
            scores = [
                sum(w * x for w, x, sees in zip(line, row, seen, strict=True) if sees)
                + (bias[k].item() if bias is not None else 0.0)
                for k, line in enumerate(weight.tolist())
            ]
            return max(range(len(scores)), key=scores.__getitem__)

        whole = predict([True] * len(row))
        same[0] += predict(strong) == whole
        same[1] += predict([not mark for mark in strong]) == whole
    return [count / len(feature) for count in same]


@pytest.mark.parametrize('biased', [False, True])
def test_what_the_clusters_keep_of_the_predictions(biased):
    student, teacher = pair((40, 9))
    draw = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 9, generator=draw)
    bias = 2 * torch.randn(5, generator=draw) if biased else None
    loss = build(strong_share=0.6)
    loss(student, teacher, None, weight, bias)
    want = slow_kept(teacher, slow_marks(teacher, 'pooled', 0.6), weight.double(), bias)
    got = [loss.terms[f'kept_{name}'].item() for name in ('strong', 'weak')]
    assert got == pytest.approx(want)
    assert 0 < got[1] < got[0] < 1


@pytest.mark.parametrize('count', [1, 3, 7])
def test_as_many_random_channels_are_kept_as_strong_ones(count):
    """The first class wins if at least so many channels of ones are seen."""
    ones, draw = torch.ones(50, 8), torch.Generator().manual_seed(0)
    mask = torch.rand(50, 8, generator=draw).argsort(1) < count
    weight = torch.stack((torch.ones(8), torch.zeros(8)))
    for border, share in ((count - 0.5, 1.0), (count + 0.5, 0.0)):
        got = kept(ones, mask, weight, torch.tensor([0.0, border]))
        assert got['kept_random'] == got['kept_strong'] == share


def test_the_random_channels_are_random():
    torch.manual_seed(0)
    feature, mask = torch.ones(4000, 4), torch.tensor([[True, False, False, False]])
    for channel in range(4):
        weight = torch.zeros(2, 4)
        weight[0, channel] = 1
        got = kept(feature, mask.expand(4000, 4), weight, torch.tensor([0.0, 0.5]))
        assert got['kept_random'].item() == pytest.approx(0.25, abs=0.03)
        assert got['kept_strong'] == float(channel == 0)


def test_predictions_are_not_probed_without_a_classifier_or_if_told_so():
    student, teacher = pair((4, 7))
    loss = build()
    loss(student, teacher)
    assert 'kept_strong' not in loss.terms
    loss.probing = False
    loss(student, teacher, None, torch.randn(3, 7))
    assert 'kept_strong' not in loss.terms


# The ratio of activations


def activations(batches, granularity='pooled', share=SHARE):
    """Sum over S and over W of all batches, element by element."""
    strong = weak = 0.0
    for batch in batches:
        if granularity == 'pooled' and batch.dim() == 4:
            batch = slow_pool(batch)
        rows = slow_rows(batch.shape, granularity)
        marks = slow_marks(batch, granularity, share)
        for (_, indices), row_marks in zip(rows, marks, strict=True):
            for index, mark in zip(indices, row_marks, strict=True):
                strong += batch[index].item() * mark
                weak += batch[index].item() * (not mark)
    return strong, weak


@LAID_OUT
def test_the_ratio_is_that_of_all_data(granularity, shape):
    loss = build(
        granularity=granularity,
        momentum=0.0,
        strong_share=SHARE,
        **WEIGHTS | dict(gamma='adaptive'),
    ).double()
    student, teachers = pair(shape)[0], [pair(shape, s)[1].abs() for s in range(4)]
    for seen in range(1, 5):
        value, grad = value_and_grad(loss, student, teachers[seen - 1])
        strong, weak = activations(teachers[:seen], granularity)
        ratio, gamma = strong / weak, WEIGHTS['beta'] * weak / strong
        assert abs(ratio - 1) > 0.01
        assert loss.terms['r'].item() == pytest.approx(ratio)
        assert loss.terms['gamma'].item() == pytest.approx(gamma)
        args = student, teachers[seen - 1], granularity
        want = value_and_grad(slow_loss, *args, gamma=gamma)
        assert_close((value, grad), want, rtol=1e-9, atol=1e-10)


def test_the_ratio_fades_by_the_momentum():
    loss = build(momentum=1.0, strong_share=SHARE).double()
    student, teacher = pair((4, 7))
    for seed in range(3):
        teacher = pair((4, 7), seed)[1].abs()
        loss(student, teacher)
    strong, weak = activations([teacher])
    assert loss.terms['r'].item() == pytest.approx(strong / weak)


@pytest.mark.parametrize(
    ('ratio', 'power'),
    [(3.37, 4), (3.45, 4), (3.13, 4), (2.51, 2), (2.24, 2), (2.39, 2), (0.4, 0.5)],
)
def test_the_ratio_can_be_rounded_as_in_the_papers_tables(ratio, power):
    student, teacher = pair((4, 7))
    teacher = teacher.abs()
    for rounded, expected in ((True, power), (False, ratio)):
        loss = build(
            round_ratio=rounded, strong_share=SHARE, **WEIGHTS | dict(gamma='adaptive')
        ).double()
        loss.activation.value.copy_(torch.tensor([ratio, 1.0], dtype=torch.float64))
        loss.eval()
        got, gamma = loss(student, teacher), WEIGHTS['beta'] / expected
        assert loss.terms['gamma'].item() == pytest.approx(gamma)
        assert loss.terms['r'].item() == pytest.approx(ratio)
        assert_close(got, slow_loss(student, teacher, gamma=gamma))


def test_the_ratio_does_not_touch_a_gamma_set_by_hand():
    student, teacher = pair((4, 7))
    loss = build(strong_share=SHARE, **WEIGHTS)
    for _ in range(3):
        assert_close(loss(student, teacher.abs()), slow_loss(student, teacher.abs()))
    assert 'gamma' not in loss.terms
    strong, weak = activations([teacher.abs()])
    assert loss.terms['r'].item() == pytest.approx(strong / weak)


def test_an_adaptive_weight_refuses_negative_features_at_first():
    student, teacher = pair((4, 7))
    loss = build(gamma='adaptive')
    with pytest.raises(ValueError, match=r"gamma='adaptive'.*goes down to -.*ReLU"):
        loss(student, teacher)
    loss = build(gamma='adaptive')
    loss(student, teacher.abs())
    assert loss(student, teacher).isfinite()  # only looked at once: it stops a GPU
    assert build()(student, teacher).isfinite()


@pytest.mark.parametrize('gamma', ['adaptive', 2.0])
def test_statistics_stand_still_in_eval_mode(gamma):
    student, teacher = pair((4, 7))
    loss = build(gamma=gamma, standardize=True, channels=7)
    loss(student, teacher.abs())
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()
    loss(student, 3 * teacher.abs() + 1)
    assert_close(dict(loss.state_dict()), state, rtol=0, atol=0)
    loss.train()
    loss(student, 3 * teacher.abs() + 1)
    for name, value in loss.state_dict().items():
        assert not value.equal(state[name])


def test_a_checkpoint_goes_on_where_it_stopped():
    student, teachers = pair((4, 7))[0], [pair((4, 7), s)[1].abs() for s in range(4)]
    settings = dict(gamma='adaptive', standardize=True, channels=7)
    whole, first, second = (build(**settings) for _ in range(3))
    for teacher in teachers:
        want = whole(student, teacher)
    for teacher in teachers[:2]:
        first(student, teacher)
    assert set(first.state_dict()) == {
        *('activation.batches', 'activation.value'),
        *('norm.batches', 'norm.mean', 'norm.var'),
    }
    second.load_state_dict(first.state_dict())
    for teacher in teachers[2:]:
        got = second(student, teacher)
    assert_close(got, want, rtol=0, atol=0)
    assert_close(second.terms, whole.terms, rtol=0, atol=0)


def test_the_ratio_of_nothing_and_of_too_much():
    loss = build(gamma='adaptive', beta=3.0)
    student, _ = pair((4, 6))
    loss.eval()
    assert loss(student, student.abs()).isfinite()
    assert loss.terms['r'] == 1  # nothing seen yet
    loss.train()
    loss(student, torch.zeros(4, 6))
    assert (loss.terms['r'], loss.terms['gamma']) == (1, 3)
    for step in (student.abs() * 0 + torch.tensor([1.0, 1, 1, 0, 0, 0]),) * 2:
        value = loss(student, step)
    assert loss.terms['r'] == 1000
    assert value.isfinite()


# Precision, memory, compiler, memory formats


@LAID_OUT
def test_half_precision_in_single_precision_inside(granularity, shape):
    student, teacher = pair(shape)
    for dtype in (torch.bfloat16, torch.float16):
        loss = build(granularity=granularity)
        halves = [x.to(dtype) for x in (student, teacher)]
        value, grad = value_and_grad(loss, *halves)
        assert value.dtype == torch.float32 and grad.dtype == dtype
        singles = [x.float() for x in halves]
        want = value_and_grad(build(granularity=granularity), *singles)
        assert_close(value, want[0], rtol=0, atol=0)
        assert_close(grad, want[1].to(dtype), rtol=0, atol=0)
        full = loss(student, teacher)
        assert value.item() == pytest.approx(full.item(), rel=3e-2)


@LAID_OUT
def test_autocast_changes_nothing(granularity, shape):
    student, teacher = (x.float() for x in pair(shape))
    loss = build(granularity=granularity, standardize=True, channels=shape[1])
    if len(shape) == 3:
        loss = build()
    want = value_and_grad(loss.eval(), student, teacher)
    with torch.autocast('cpu', torch.bfloat16):
        got = value_and_grad(loss, student, teacher)
    assert_close(got, want, rtol=0, atol=0)


# Was once so: the classifier of kept() runs in bfloat16 under autocast.
def test_autocast_changes_no_prediction():
    student, teacher = (x.float() for x in pair((2000, 9)))
    weight = torch.randn(50, 9, generator=torch.Generator().manual_seed(2))
    loss, seen = build(), []
    for enabled in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            loss(student, teacher, None, weight)
        seen.append([loss.terms[f'kept_{name}'].item() for name in ('strong', 'weak')])
    assert seen[1] == pytest.approx(seen[0], abs=1e-6)


MEMORY = {
    'pooled': (16, 64),
    'channel': (4, 16, 8, 8),
    'spatial': (4, 16, 8, 8),
    'flat': (4, 16, 8, 8),
}


@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize('granularity', MEMORY)
def test_few_bytes_are_kept_for_backward(granularity, standardize):
    shape = MEMORY[granularity]
    student, teacher = (x.float() for x in pair(shape))
    loss = build(granularity=granularity, standardize=standardize, channels=shape[1])
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    student.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(student * 1, teacher)
    size = student.numel() * student.element_size()
    assert 0 < sum(saved.values()) <= 4 * size


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split('.')[:2])) < (2, 4),
    reason='torch.compile takes autograd functions of several outputs from 2.4 on',
)
@pytest.mark.parametrize(
    ('granularity', 'shape', 'settings'),
    [
        pytest.param('pooled', (4, 7), dict(), id='pooled'),
        pytest.param('pooled', (4, 7), dict(gamma='adaptive'), id='adaptive'),
        pytest.param(
            'channel', (2, 6, 2, 3), dict(standardize=True, channels=6), id='channel'
        ),
        pytest.param('spatial', (2, 3, 2, 4), dict(), id='spatial'),
    ],
)
def test_compiled_it_gives_the_same(granularity, shape, settings):
    student, teacher = (x.float() for x in pair(shape))
    torch._dynamo.reset()
    plain, other = (build(granularity=granularity, **settings) for _ in range(2))
    compiled = torch.compile(other, backend='aot_eager')
    for _ in range(2):
        got, want = (
            value_and_grad(loss, student, teacher.abs()) for loss in (compiled, plain)
        )
        assert_close(got, want, rtol=1e-5, atol=1e-6)
        assert_close(other.terms, plain.terms, rtol=1e-5, atol=1e-6)
    assert_close(dict(other.state_dict()), dict(plain.state_dict()))


class NoScalars(TorchDispatchMode):
    """Reading a number of a tensor stops a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert '_local_scalar_dense' not in str(func), 'stops a GPU'
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ('scorer', 'shape'),
    [
        pytest.param(dict(type=f'{name}Scorer'), shape, id=f'{name}-{len(shape)}')
        for name, shape in [
            ('Activation', (4, 7)),
            ('Activation', (4, 7, 2, 3)),
            ('Random', (4, 7)),
            ('Random', (4, 7, 2, 3)),
            ('Classifier', (4, 7)),
        ]
    ]
    + [
        pytest.param(
            dict(type='ScoringNetwork', channels=7, num_classes=3), shape, id=name
        )
        for name, shape in {'Network-2': (4, 7), 'Network-4': (4, 7, 2, 3)}.items()
    ],
)
def test_nothing_is_read_back_to_the_host(scorer, shape):
    granularity = 'channel' if len(shape) == 4 else 'pooled'
    student, teacher = (x.float().abs() for x in pair(shape))
    labels, weight = torch.tensor([0, 2, 1, 2]), torch.randn(3, 7)
    loss = build(
        scorer=scorer,
        gamma='adaptive',
        round_ratio=True,
        standardize=True,
        channels=7,
        granularity=granularity,
    )
    loss(student, teacher, labels, weight)  # the first step looks for negative values
    with NoScalars():
        value = loss(student.requires_grad_(), teacher, labels, weight)
        (value if loss.auxiliary is None else value + loss.auxiliary).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('granularity', ['pooled', 'channel', 'spatial', 'flat'])
@pytest.mark.parametrize('both', [False, True])
def test_channels_last_is_the_same(granularity, both):
    features = pair((2, 6, 3, 4))
    want = value_and_grad(build(granularity=granularity), *features)
    student, teacher = (
        x.contiguous(memory_format=torch.channels_last) for x in features
    )
    teacher = teacher if both else features[1]
    got = value_and_grad(build(granularity=granularity), student, teacher)
    assert_close(got, want, rtol=1e-12, atol=1e-12)


@LAID_OUT
def test_no_samples_no_loss(granularity, shape):
    student, teacher = (x[:0].float() for x in pair(shape))
    loss = build(granularity=granularity, gamma='adaptive')
    value, grad = value_and_grad(loss, student, teacher)
    assert value == 0
    assert grad.shape == (0, *shape[1:])
    full = pair(shape)
    assert loss(full[0], full[1].abs()).isfinite()
    strong, weak = activations([full[1].abs()], granularity, 0.5)
    assert loss.terms['r'].item() == pytest.approx(strong / weak, rel=1e-5)


def test_inputs_are_left_alone():
    features = pair((2, 6, 2, 3))
    before = [x.clone() for x in features]
    build(granularity='channel', standardize=True, channels=6)(*features)
    assert_close(list(features), before, rtol=0, atol=0)


# The interface


def test_mmrazors_distiller_can_read_the_signature():
    parameters = inspect.signature(CAKDFeatureLoss.forward).parameters
    assert list(parameters) == [
        *('self', 'preds_S', 'preds_T'),
        *('gt_labels', 'head_weight', 'head_bias'),
    ]
    assert {p.kind for p in parameters.values()} == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD
    }


@pytest.mark.parametrize('value', [-1.0, math.inf, math.nan, True, None])
@pytest.mark.parametrize(
    'key', ['tau', 'alpha', 'beta', 'gamma', 'loss_weight', 'strong_share']
)
def test_a_wrong_number_is_named(key, value):
    message = rf'{key} must be .*, got {value!r}: set {key} in .*CAKDFeatureLoss'
    with pytest.raises(ValueError, match=message):
        build(**{key: value})


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"gamma.*'adaptive', got 'auto'.*CAKDFeature"):
        build(gamma='auto')
    with pytest.raises(ValueError, match=r'tau must be a positive.*got 0'):
        build(tau=0)
    for share in (1, 1.0, 1.5):
        with pytest.raises(ValueError, match=rf'strong_share.*\(0, 1\), got {share}'):
            build(strong_share=share)
    with pytest.raises(ValueError, match=r'strong_share must be a positive'):
        build(strong_share=0)
    with pytest.raises(TypeError, match='share'):
        build(share=0.5)


def test_the_head_of_another_feature_is_named():
    loss = CAKDFeatureLoss()
    with pytest.raises(ValueError, match=r'head_weight .*\(5, 12\).* 8 channels'):
        loss(torch.randn(4, 8), torch.rand(4, 8), head_weight=torch.randn(5, 12))


def test_terms_of_an_empty_batch_are_finite():
    loss = CAKDFeatureLoss()
    loss(torch.randn(0, 8, requires_grad=True), torch.rand(0, 8)).backward()
    assert all(torch.isfinite(value) for value in loss.terms.values())


class Broadcast(BaseScorer):
    def forward(self, feature, gt_labels=None, head_weight=None):
        return feature[:1]


def test_scores_of_another_shape_are_refused():
    loss = CAKDFeatureLoss(scorer=Broadcast())
    with pytest.raises(ValueError, match=r'Broadcast gave .*\(1, 8\).*\(4, 8\)'):
        loss(torch.randn(4, 8), torch.rand(4, 8))


def test_a_negative_map_is_refused_whatever_its_average():
    maps = torch.full((2, 8, 4, 4), 2.0)
    maps[0, 3, 1, 1] = -1.0
    loss = CAKDFeatureLoss(gamma='adaptive')
    with pytest.raises(ValueError, match='goes down to -1'):
        loss(torch.randn(2, 8, 4, 4), maps)


def test_an_adaptive_weight_out_of_range_is_reported():
    assert 'r = 0.001' in CAKDFeatureLoss(gamma='adaptive').warning({'r': 1e-3})
    assert CAKDFeatureLoss(gamma='adaptive').warning({'r': 3.0}) is None
    assert CAKDFeatureLoss(gamma=2.0).warning({'r': 1e-3}) is None
