"""CAKDFeatureLoss against loops over rows and elements."""

import math

import pytest
import torch
from mmrazor.registry import MODELS
from test_contract import Reads
from torch.testing import assert_close

from cakd_mm.models.layout import to_rows
from cakd_mm.models.losses import CAKDFeatureLoss
from cakd_mm.models.losses.cakd_feature_loss import kept
from cakd_mm.models.scorers import BaseScorer

WEIGHTS = dict(tau=2.5, alpha=0.7, beta=5.0, gamma=1.5)
SHARE = 0.4
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


def slow_marks(teacher, granularity, share):
    """Which elements of every row are strong: magnitude, by sorting."""
    rows = to_rows(teacher, granularity)
    per_sample = len(rows) // len(teacher)
    marks = []
    for sample, own in enumerate(rows.tolist()):
        mates = [own]  # elements of a map compete within their row, channels do not
        if granularity not in ('spatial', 'flat'):
            first = sample - sample % per_sample
            mates = rows[first : first + per_sample].tolist()
        scores = [sum(map(abs, column)) for column in zip(*mates, strict=True)]
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
    marks = marks or slow_marks(teacher, granularity, share)
    rows = (to_rows(feature, granularity) for feature in (student, teacher))
    found = [
        torch.stack(slow_terms(*row, tau)) for row in zip(*rows, marks, strict=True)
    ]
    return torch.stack(found, 1)


def slow_loss(student, teacher, *args, tau=2.5, alpha=0.7, beta=5.0, gamma=1.5, **kw):
    bcd, scd, wcd, _ = slow(student, teacher, *args, tau=tau, **kw)
    return tau**2 * (alpha * bcd + beta * scd + gamma * wcd).mean()


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


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(gamma='adaptive'),
        dict(gradient_shares=dict(bcd=0.2, scd=0.5, wcd=0.3)),
        dict(scorer=dict(type='RandomScorer')),
        dict(standardize=True, channels=3),
        dict(strong_share=0.1),
    ],
    ids=str,
)
def test_a_map_of_one_position_has_one_distribution_of_each_channel(settings):
    student, teacher = pair((4, 3, 1, 1))
    loss = build(granularity='spatial', **settings).double().train()
    for _ in range(2):
        value, grad = value_and_grad(loss, student, teacher.abs())
        assert value == 0 and (grad == 0).all()
        assert all(loss.terms[name] == 0 for name in ('bcd', 'scd', 'wcd'))
        # The ratio of two clusters is not known, and no warning is given of it.
        assert loss.ratio == 1 and loss.activation.batches == 0
        assert loss.warning({k: float(x) for k, x in loss.terms.items()}) is None


@pytest.mark.parametrize('granularity', ['channel', 'flat', 'pooled'])
def test_a_map_of_one_position_has_channels_to_compare(granularity):
    """All layouts but that of positions are those of a vector then."""
    student, teacher = pair((4, 7, 1, 1))
    value, grad = value_and_grad(build(granularity=granularity), student, teacher)
    vectors = student[:, :, 0, 0], teacher[:, :, 0, 0]
    want, slope = value_and_grad(build(), *vectors)
    assert value > 0
    assert_close((value, grad[:, :, 0, 0]), (want, slope))


@pytest.mark.parametrize(
    ('granularity', 'shape', 'share'),
    [
        ('spatial', (2, 3, 1, 2), 0.1),
        ('spatial', (2, 3, 2, 1), 0.9),
        ('channel', (2, 1, 4, 4), 0.5),
        ('flat', (2, 1, 1, 1), 0.5),
        ('pooled', (2, 1), 0.5),
    ],
)
def test_a_cluster_that_would_be_empty_stays_an_error(granularity, shape, share):
    loss = build(granularity=granularity, strong_share=share)
    with pytest.raises(ValueError, match=r'strong_share=.*cluster empty'):
        loss(*pair(shape))


@pytest.mark.parametrize('granularity', ['channel', 'spatial', 'flat'])
def test_maps_of_unequal_size_are_refused(granularity):
    loss = build(granularity=granularity)
    with pytest.raises(ValueError, match=r'\(2, 3, 4, 4\).*\(2, 3, 2, 2\).*Connector'):
        loss(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2))


@pytest.mark.parametrize(
    ('elements', 'share', 'count'),
    [(64, 0.5, 32), (7, 0.5, 4), (10, 0.25, 3), (10, 0.24, 2)],
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


def slow_kept(feature, marks, weight, bias):
    """The share of rows whose prediction survives, of S and of W."""

    def predict(row):
        scores = weight @ row
        return (scores if bias is None else scores + bias).argmax().item()

    same = [0, 0]
    for row, strong in zip(feature, torch.tensor(marks), strict=True):
        same[0] += predict(row * strong) == predict(row)
        same[1] += predict(row * ~strong) == predict(row)
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
        rows = to_rows(batch, granularity).tolist()
        marks = slow_marks(batch, granularity, share)
        for row, row_marks in zip(rows, marks, strict=True):
            for element, mark in zip(row, row_marks, strict=True):
                strong += element * mark
                weak += element * (not mark)
    return strong, weak


@LAID_OUT
@pytest.mark.parametrize('momentum', [0.0, 1.0])
def test_the_ratio_is_that_of_all_data_or_of_the_last(granularity, shape, momentum):
    loss = build(
        granularity=granularity,
        momentum=momentum,
        strong_share=SHARE,
        **WEIGHTS | dict(gamma='adaptive'),
    ).double()
    student, teachers = pair(shape)[0], [pair(shape, s)[1].abs() for s in range(4)]
    for seen in range(1, 5):
        value, grad = value_and_grad(loss, student, teachers[seen - 1])
        first = 0 if momentum == 0 else seen - 1
        strong, weak = activations(teachers[first:seen], granularity)
        ratio, gamma = strong / weak, WEIGHTS['beta'] * weak / strong
        assert abs(ratio - 1) > 0.01
        assert loss.terms['r'].item() == pytest.approx(ratio)
        assert loss.terms['gamma'].item() == pytest.approx(gamma)
        args = student, teachers[seen - 1], granularity
        want = value_and_grad(slow_loss, *args, gamma=gamma)
        assert_close((value, grad), want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ('ratio', 'power'),
    [(3.37, 4), (2.51, 2), (0.4, 0.5)],
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


# Precision and devices


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


@pytest.mark.parametrize(
    ('scorer', 'shape'),
    [
        (dict(type='RandomScorer'), (4, 7, 2, 3)),
        (dict(type='ClassifierScorer'), (4, 7)),
        (dict(type='ScoringNetwork', channels=7, num_classes=3), (4, 7)),
        (dict(type='ScoringNetwork', channels=7, num_classes=3), (4, 7, 2, 3)),
    ],
    ids=str,
)
def test_no_scorer_reads_a_number_back_to_the_host(scorer, shape):
    granularity = 'channel' if len(shape) == 4 else 'pooled'
    student, teacher = (x.float().abs() for x in pair(shape))
    labels, weight = torch.tensor([0, 2, 1, 2]), torch.randn(3, 7)
    loss = build(
        scorer=scorer, gamma='adaptive', round_ratio=True, granularity=granularity
    )
    loss(student, teacher, labels, weight)  # the first step looks for negative values
    with Reads() as reads:
        value = loss(student.requires_grad_(), teacher, labels, weight)
        (value if loss.auxiliary is None else value + loss.auxiliary).backward()
    assert student.grad.isfinite().all()
    assert reads.count == 0


# The interface


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"gamma.*'adaptive', got 'auto'.*CAKDFeature"):
        build(gamma='auto')
    for share in (1, 1.5):
        with pytest.raises(ValueError, match=rf'strong_share.*\(0, 1\), got {share}'):
            build(strong_share=share)
    with pytest.raises(TypeError, match='share'):
        build(share=0.5)


def test_the_head_of_another_feature_is_named():
    loss = CAKDFeatureLoss()
    with pytest.raises(ValueError, match=r'head_weight .*\(5, 12\).* 8 channels'):
        loss(torch.randn(4, 8), torch.rand(4, 8), head_weight=torch.randn(5, 12))


class Broadcast(BaseScorer):
    def forward(self, feature, gt_labels=None, head_weight=None):
        return feature[:1]


def test_scores_of_another_shape_are_refused():
    loss = CAKDFeatureLoss(scorer=Broadcast())
    with pytest.raises(ValueError, match=r'Broadcast gave .*\(1, 8\).*\(4, 8\)'):
        loss(torch.randn(4, 8), torch.rand(4, 8))


def test_an_adaptive_weight_refuses_negative_features_at_first():
    maps = torch.full((2, 8, 4, 4), 2.0)
    maps[0, 3, 1, 1] = -1.0  # though no average is below 0
    loss = build(gamma='adaptive')
    with pytest.raises(ValueError, match=r"gamma='adaptive'.*goes down to -1.*ReLU"):
        loss(torch.randn(2, 8, 4, 4), maps)
    student, teacher = pair((4, 7))
    loss = build(gamma='adaptive')
    loss(student, teacher.abs())
    assert loss(student, teacher).isfinite()  # only looked at once: it stops a GPU
    assert build()(student, teacher).isfinite()


def test_an_adaptive_weight_out_of_range_is_reported():
    assert 'r = 0.001' in CAKDFeatureLoss(gamma='adaptive').warning({'r': 1e-3})
    assert CAKDFeatureLoss(gamma='adaptive').warning({'r': 3.0}) is None
    assert CAKDFeatureLoss(gamma=2.0).warning({'r': 1e-3}) is None


@pytest.mark.parametrize(
    ('strong', 'weak', 'expected'),
    [(2e-5, 1e-6, 20), (0, 0, 1), (1, 0, 1e3), (0, 1, 1e-3)],
)
def test_the_ratio_of_small_and_missing_activations(strong, weak, expected):
    loss = CAKDFeatureLoss(gamma='adaptive')
    loss.activation.value.copy_(torch.tensor([strong, weak]))
    assert loss.ratio.item() == pytest.approx(expected)
