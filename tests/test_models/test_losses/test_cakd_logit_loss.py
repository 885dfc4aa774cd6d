"""CAKDLogitLoss as a config builds it: labels, weights, reduction, mistakes."""

import goldens
import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import CAKDLogitLoss
from cakd_mm.models.losses.functional import decoupled_kl

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
ROWS, CLASSES = 6, 5
LABELS = torch.tensor([4, 0, 2, 2, 1, 3])


def build(**settings) -> CAKDLogitLoss:
    return MODELS.build(dict(type='CAKDLogitLoss', **settings))


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, ROWS, CLASSES, generator=draw)
    return student.double(), teacher.double()


def expected(logits, mask, tau, alpha, beta, gamma):
    bcd, scd, wcd = decoupled_kl(*logits, mask, tau)
    return tau**2 * (alpha * bcd + beta * scd + gamma * wcd).mean()


def one_hot(labels=LABELS):
    return torch.nn.functional.one_hot(labels, CLASSES)


# Stored numbers


def check(entry, dtype, loss, labels):
    golden = goldens.load(entry)
    leaf = golden['logits_student'].to(dtype).requires_grad_()
    value = loss(leaf, golden['logits_teacher'].to(dtype), labels)
    value.backward()
    goldens.assert_matches(entry, value.detach(), leaf.grad)


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('CAKD-logit'))
def test_goldens_of_one_label(entry, dtype):
    check(entry, dtype, build(**entry['hparams']), goldens.load(entry)['labels'])


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('CAKD-multilabel'))
def test_goldens_of_several_labels(entry, dtype):
    loss = build(multi_label=True, **entry['hparams'])
    check(entry, dtype, loss, goldens.load(entry)['mask'])


# Labels


def test_rows_of_label_scores_can_be_refused(logits):
    loss = build(soft_labels='refuse')
    assert loss(*logits, LABELS) > 0
    with pytest.raises(ValueError, match=r"soft_labels='refuse'.*\(6, 5\).*'argmax'"):
        loss(*logits, one_hot().float())


MULTI = torch.tensor(
    [
        [1, 0, 1, 0, 0],
        [0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
        [0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0],
    ]
)


@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.float32, torch.int8])
def test_several_labels_none_and_all(logits, dtype):
    loss = build(tau=2.0, alpha=0.7, beta=5.0, gamma=3.0, multi_label=True)
    want = expected(logits, MULTI > 0, 2.0, 0.7, 5.0, 3.0)
    assert_close(loss(*logits, MULTI.to(dtype)), want)


# Clusters of several classes


@pytest.mark.parametrize('count', [2, 3, 4])
def test_the_label_and_the_teachers_likeliest_others_are_strong(logits, count):
    mask = torch.zeros(ROWS, CLASSES, dtype=torch.bool)
    for row, (scores, label) in enumerate(zip(logits[1], LABELS.tolist(), strict=True)):
        others = [c for c in scores.argsort(descending=True).tolist() if c != label]
        mask[row, [label, *others[: count - 1]]] = True
    loss = build(tau=2.0, alpha=0.7, beta=5.0, gamma=3.0, strong_classes=count)
    assert_close(loss(*logits, LABELS), expected(logits, mask, 2.0, 0.7, 5.0, 3.0))
    held = (logits[1] / 2).softmax(1)[mask].sum() / ROWS
    assert_close(loss.terms['strong_mass'], held)


def test_one_class_is_the_papers_form(logits):
    shares = dict(bcd=0.5, scd=0.0, wcd=0.5)
    by_mask = build(gradient_shares=shares)
    by_label = build()
    by_mask(*logits, LABELS), by_label(*logits, LABELS)
    for name, value in by_label.terms.items():
        assert_close(by_mask.terms[name], value)


@pytest.mark.parametrize('mass', [0.3, 0.6, 0.9])
def test_clusters_hold_the_mass_unless_all_but_one_class_are_strong(logits, mass):
    loss = build(tau=2.0, strong_mass=mass)
    leaf = logits[0].requires_grad_()
    loss(leaf, logits[1], LABELS).backward()
    rows = loss.rows
    others = (logits[1] / 2).softmax(1).masked_fill(one_hot() > 0, 1)
    most = 1 - others.amin(1, keepdim=True)
    held = 1 - rows['weak_mass']
    assert (held >= torch.minimum(torch.tensor(mass), most) - 1e-12).all()
    fewer = build(tau=2.0, strong_mass=mass - 0.25)
    fewer(*(x.detach() for x in logits), LABELS)
    assert fewer.terms['strong_mass'] < loss.terms['strong_mass']


def test_random_clusters_are_as_large_and_keep_the_label(logits):
    wide = [torch.cat([x, 0.5 * x.flip(1)], 1) for x in logits]
    for settings in (dict(strong_classes=4), dict(strong_mass=0.7)):
        torch.manual_seed(0)
        loss = build(scorer=dict(type='RandomScorer'), **settings)
        masks = []
        for _ in range(40):
            loss.indices = torch.arange(ROWS) + 7
            masks.append(loss._strong(LABELS, wide[1]))
            assert loss.indices is None  # they are of this batch alone
        mask = torch.stack(masks)
        assert mask[:, torch.arange(ROWS), LABELS].all()
        sizes = build(**settings)._strong(LABELS, wide[1]).sum(1)
        assert (mask.sum(2) == sizes).all()
        # Each other class is strong now and then.
        assert mask.any(0)[sizes > 1].all()
        assert loss.uses_indices
        assert not build(**settings).uses_indices


def test_a_checkpoint_brings_the_random_clusters_back(logits):
    settings = dict(strong_classes=2, scorer=dict(type='RandomScorer'))
    first, other = build(**settings), build(**settings)
    first(*logits, LABELS)
    other.load_state_dict(first.state_dict())
    assert first(*logits, LABELS) == other(*logits, LABELS)


def test_titles_say_what_is_strong():
    say = CAKDLogitLoss.describe_clusters
    assert say({}) == 'strong = the labelled class, weak = all others'
    assert "2 of the teacher's likeliest" in say(dict(strong_classes=3))
    assert 'hold 80 %' in say(dict(strong_mass=0.8))
    random = dict(strong_classes=3, scorer=dict(type='RandomScorer'))
    assert 'ranked by RandomScorer' in say(random)
    random = dict(strong_mass=0.8, scorer=dict(type='RandomScorer'))
    assert say(random).endswith('and as many others, ranked by RandomScorer')


def test_standardized_logits(logits):
    loss = build(standardize=True, strong_classes=2, strong_mass=None)
    by_hand = [(x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in logits]
    assert_close(loss(*logits, LABELS), build(strong_classes=2)(*by_hand, LABELS))


# Weights and reduction


def test_the_defaults(logits):
    want = expected(logits, one_hot() > 0, tau=4.0, alpha=1.0, beta=1.0, gamma=8.0)
    assert_close(build()(*logits, LABELS), want)
    want = expected(logits, MULTI > 0, tau=4.0, alpha=1.0, beta=1.0, gamma=8.0)
    assert_close(build(multi_label=True)(*logits, MULTI), want)


# Mistakes


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match=r"soft_labels.*'argmax'.*got 'mean'"):
        build(soft_labels='mean')
    with pytest.raises(TypeError, match='reduction'):
        build(reduction='sum')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(strong_classes=0), 'strong_classes. = 0.*integer from 1'),
        (dict(strong_classes=2.0), r'strong_classes. = 2\.0'),
        (dict(strong_mass=1.0), 'strong_mass. = 1.*0.9 say'),
        (dict(strong_mass='all'), 'strong_mass'),
        (
            dict(strong_mass=0.5, strong_classes=2),
            'strong_classes. = 2.*one of the two',
        ),
        (dict(multi_label=True, strong_classes=2), 'strong_classes. = 2.*multi_label'),
        (dict(multi_label=True, strong_mass=0.5), 'strong_mass. = 0.5.*multi_label'),
        (
            dict(gradient_shares=dict(bcd=0, scd=1, wcd=0)),
            'gradient_shares.*no gradient.*strong_classes=3',
        ),
        (dict(scorer=dict(type='RandomScorer')), 'scorer.*Random.*strong_classes=3'),
        (
            dict(strong_classes=2, scorer=dict(type='ClassifierScorer')),
            'scorer.*ClassifierScorer.*needs more',
        ),
    ],
    ids=str,
)
def test_clusters_that_contradict_each_other(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_no_class_would_be_weak(logits):
    with pytest.raises(ValueError, match='strong_classes.*= 5.*5 classes.*1 to 4'):
        build(strong_classes=5)(*logits, LABELS)
    with pytest.raises(ValueError, match='holds 7, but there are 5 classes'):
        build(strong_classes=2)(*logits, LABELS + 3)
