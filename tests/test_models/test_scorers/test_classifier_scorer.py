"""ClassifierScorer against loops over every channel."""

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

N, C, K = 5, 7, 3
LABELS = torch.tensor([2, 0, 1, 1, 2])


def build(**settings):
    return MODELS.build(dict(type='ClassifierScorer', **settings))


@pytest.fixture
def problem():
    draw = torch.Generator().manual_seed(0)
    feature = torch.randn(N, C, generator=draw, dtype=torch.float64)
    return feature, torch.randn(K, C, generator=draw)


def slow(feature, weight, rows, absolute):
    """Score of every channel, for rows of label scores."""
    scores = []
    for sample in range(len(feature)):
        line = []
        for c in range(feature.shape[1]):
            vote = sum(
                rows[sample][k].item() * weight[k, c].item() for k in range(len(weight))
            )
            value = feature[sample, c].item() * vote
            line.append(abs(value) if absolute else value)
        scores.append(line)
    return torch.tensor(scores, dtype=torch.float64)


def one_hot(labels=LABELS):
    return torch.nn.functional.one_hot(labels, K)


# Once uint8 labels were taken for a mask of the classes.
@pytest.mark.parametrize('absolute', [False, True])
@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8], ids=str)
def test_the_contribution_to_the_labels_logit(problem, absolute, dtype):
    feature, weight = problem
    got = build(absolute=absolute)(feature, LABELS.to(dtype), weight)
    assert_close(got, slow(feature, weight, one_hot(), absolute))
    assert (got < 0).any() != absolute


def test_rows_of_label_scores_weigh_the_classes(problem):
    feature, weight = problem
    draw = torch.Generator().manual_seed(1)
    rows = torch.rand(N, K, generator=draw).softmax(1)
    assert_close(build()(feature, rows, weight), slow(feature, weight, rows, False))


@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.float16], ids=str)
def test_rows_that_mark_one_class_are_that_class(problem, dtype):
    feature, weight = problem
    got = build()(feature, one_hot().to(dtype), weight)
    assert_close(got, slow(feature, weight, one_hot(), False))


# Was once so: autocast multiplies the rows with the weights in bfloat16.
@pytest.mark.parametrize('rows', [False, True])
def test_autocast_changes_no_score_within_the_loss(problem, rows):
    feature, weight = problem[0].float(), problem[1]
    labels = torch.full((N, K), 1 / K) if rows else LABELS
    loss, seen = MODELS.build(dict(type='CAKDFeatureLoss', scorer=build())), []
    loss.scorer.register_forward_hook(lambda *call: seen.append(call[-1]))
    for enabled in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            loss(feature + 1, feature, labels, weight)
    assert_close(seen[1], seen[0], rtol=1e-6, atol=1e-7)
    want = slow(feature, weight, labels if rows else one_hot(), False).float()
    assert_close(seen[0], want, rtol=1e-5, atol=1e-6)


def test_what_it_needs(problem):
    scorer = build()
    assert scorer.needs == ('gt_labels', 'head_weight')
    assert not scorer.elementwise
    assert not scorer.absolute
    assert not scorer.state_dict()
    feature, weight = problem
    assert not scorer(feature, LABELS, weight.requires_grad_()).requires_grad


@pytest.mark.parametrize('shape', [(5, 6), (5, 7, 4)], ids=str)
def test_only_the_classifiers_input_can_be_scored(problem, shape):
    message = rf"classifier's input, \(N, 7\).*{', '.join(map(str, shape))}.*'pooled'"
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(shape), LABELS, problem[1])


def test_negative_scores_do_not_vote_and_no_label_means_activation():
    feature, weight = torch.rand(3, 6), torch.randn(4, 6)
    rows = torch.tensor([[1.0, -1, 0, 1], [0, 0, 0, 0], [-1, 0, 0, -1]])
    scores = build()(feature, rows, weight)
    expected = torch.stack([feature[0] * (weight[0] + weight[3]) / 2, *feature[1:]])
    torch.testing.assert_close(scores, expected)
