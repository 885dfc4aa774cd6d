"""ClassScorer: means over the images of a class, against a slow loop."""

import copy

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.layout import strongest

CHANNELS, CLASSES = 7, 4


def build(**settings):
    cfg = dict(type='ClassScorer', channels=CHANNELS, num_classes=CLASSES)
    return MODELS.build(cfg | settings)


def steps(count=5, rows=6, seed=0):
    # The last class is never seen.
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        labels = torch.randint(CLASSES - 1, (rows,), generator=draw)
        yield torch.randn(rows, CHANNELS, generator=draw), labels


def slow_means(batches):
    """Mean magnitude of each channel over all images of a class, by class."""
    images: dict[int, list] = {}
    for feature, labels in batches:
        for row, label in zip(feature, labels.tolist(), strict=True):
            images.setdefault(label, []).append(row.abs())
    return {label: torch.stack(rows).mean(0) for label, rows in images.items()}


@pytest.mark.parametrize('contrast', [False, True])
def test_scores_are_the_means_of_the_class_so_far(contrast):
    scorer, batches = build(contrast=contrast), list(steps())
    for place, (feature, labels) in enumerate(batches):
        scores = scorer(feature, labels)
        means = slow_means(batches[: place + 1])
        all_classes = torch.stack([*means.values()]).mean(0)
        for row, label in zip(scores, labels.tolist(), strict=True):
            assert_close(row, means[label] - contrast * all_classes)


def test_a_class_has_one_cluster_and_classes_differ():
    scorer = build()
    for feature, labels in steps():
        mask = strongest(scorer(feature, labels), 3)
    clusters = {
        label: {tuple(row.tolist()) for row in mask[labels == label]}
        for label in labels.unique().tolist()
    }
    assert all(len(found) == 1 for found in clusters.values())
    assert len(set.union(*clusters.values())) > 1


def test_contrast_finds_the_channel_that_is_strong_for_the_label():
    feature = torch.tensor([[9.0, 1, 2, 0, 0, 0, 0], [9.0, 2, 1, 0, 0, 0, 0]])
    labels = torch.tensor([0, 1])
    assert build(contrast=False)(feature, labels).argmax(1).tolist() == [0, 0]
    assert build()(feature, labels).argmax(1).tolist() == [2, 1]


def test_an_evaluation_changes_nothing_and_a_checkpoint_brings_the_means_back():
    scorer, other = build(), build()
    for feature, labels in steps():
        scorer(feature, labels)
    saved = copy.deepcopy(scorer.state_dict())
    other.load_state_dict(saved)
    feature, labels = next(steps(seed=3))
    scores = [module.eval()(feature, labels) for module in (scorer, other)]
    assert_close(*scores, rtol=0, atol=0)
    for name, value in scorer.state_dict().items():
        assert value.equal(saved[name])


def test_an_image_of_an_unknown_class_or_of_none_keeps_its_own_scores():
    scorer = build().eval()
    feature = torch.randn(2, CHANNELS)
    assert_close(scorer(feature, torch.tensor([3, 3])), feature.abs())
    scorer = build(contrast=False)
    rows = torch.tensor([[0, 2.0, 0, 2.0], [0, 0, 0, 0]])
    scores = scorer(feature, rows)
    assert_close(scores, feature.abs())  # the first image is its classes' only one
    assert scorer.counts.tolist() == [0, 0.5, 0, 0.5]


def test_several_labels_average_their_classes():
    scorer = build(contrast=False)
    feature = torch.rand(2, CHANNELS)
    scorer(feature, torch.tensor([0, 1]))
    mixed = torch.tensor([[0.25, 0.75, 0, 0]])
    assert_close(
        scorer.eval()(feature[:1], mixed), (0.25 * feature[:1] + 0.75 * feature[1:])
    )
    # A class that no step has had leaves its share to the others.
    assert_close(scorer(feature[:1], torch.tensor([[0.0, 0.2, 0, 0.8]])), feature[1:])


def test_other_scorers_are_averaged_too():
    weight = torch.randn(CLASSES, CHANNELS)
    scorer = build(scorer=dict(type='ClassifierScorer'), contrast=False)
    feature, labels = next(steps())
    scores = scorer(feature, labels, weight)
    for label in labels.unique():
        own = feature[labels == label] * weight[label]
        assert_close(scores[labels == label], own.mean(0).expand_as(own))
    assert set(scorer.needs) == {'gt_labels', 'head_weight'}


def test_random_clusters_of_a_class_are_the_control():
    torch.manual_seed(0)
    scorer = build(scorer=dict(type='RandomScorer'))
    assert scorer.by_image
    for feature, labels in steps():
        scores = scorer(feature, labels)
    assert len({tuple(row.tolist()) for row in scores}) == labels.unique().numel()


def test_what_the_averaged_scorer_needs_and_says_is_passed_on():
    inner = MODELS.build(
        dict(type='ScoringNetwork', channels=CHANNELS, num_classes=CLASSES)
    )
    scorer = build(scorer=inner)
    feature, labels = next(steps())
    scorer(feature, labels)
    assert scorer.auxiliary is inner.auxiliary and inner.auxiliary.requires_grad
    assert scorer.terms is inner.terms and scorer.terms.keys() == {*scorer.term_labels}
    assert scorer.one_class and not build().one_class
    [(norm, _)] = scorer.norm_batches(feature)
    assert norm is inner.norm
    inner.patience = 1
    assert 'collapsed' in scorer.warning(dict(gate_spread=0.0))


def test_labels_below_0_count_as_none_and_rows_as_shares():
    """Whatever the sum of a row is, an image counts once."""
    scorer = build(contrast=False)
    scorer(torch.rand(2, CHANNELS), torch.tensor([[4.0, 0, -1, 0], [0, 0.2, 0, 0.6]]))
    assert_close(scorer.counts, torch.tensor([1, 0.25, 0, 0.75]))


def test_means_do_not_drown_in_large_numbers():
    scorer, labels = build(contrast=False), torch.zeros(4, dtype=torch.int64)
    for _ in range(300):
        scores = scorer(torch.full((4, CHANNELS), 1e12), labels)
    assert_close(scores, torch.full((4, CHANNELS), 1e12))


@pytest.mark.parametrize(
    ('settings', 'feature', 'labels', 'message'),
    [
        (
            dict(),
            torch.ones(2, 3),
            torch.tensor([0, 1]),
            r'scorer\.channels. = 7.*has 3',
        ),
        (dict(), torch.ones(2, 7), torch.tensor([0, 9]), 'holds 9.*4 classes'),
        (dict(), torch.ones(2, 7), torch.ones(2, 3), r'scorer\.num_classes. = 4.*3 cl'),
        (dict(), torch.ones(2, 7), None, 'ClassScorer needs gt_labels'),
    ],
)
def test_mistakes(settings, feature, labels, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)(feature, labels)


@pytest.mark.parametrize('name', ['channels', 'num_classes'])
@pytest.mark.parametrize('value', [0, 2.5, True])
def test_counts_that_are_none(name, value):
    with pytest.raises(ValueError, match=rf'scorer\.{name}'):
        build(**{name: value})


@pytest.mark.parametrize(
    'value', ['RandomScorer', {}, [], dict(type='KDLoss')], ids=str
)
@pytest.mark.parametrize(
    ('kind', 'key'),
    [
        ('ClassScorer', 'scorer.scorer'),
        ('CAKDFeatureLoss', 'scorer'),
        ('CAKDLogitLoss', 'scorer'),
    ],
)
def test_what_is_no_scorer(kind, key, value):
    cfg = dict(type=kind, scorer=value)
    cfg |= dict(strong_classes=2) if kind == 'CAKDLogitLoss' else {}
    cfg |= dict(channels=3, num_classes=2) if kind == 'ClassScorer' else {}
    with pytest.raises(ValueError, match=rf'^`{key}` = .*no scorer.*RandomScorer'):
        MODELS.build(cfg)


@pytest.mark.parametrize('value', ['no', None, 1])
def test_contrast_is_a_bool(value):
    with pytest.raises(ValueError, match=rf'scorer\.contrast. = .?{value}.*True or F'):
        build(contrast=value)
