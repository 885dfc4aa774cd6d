"""ScoringNetwork: its loss by hand, who learns from it, what it learns."""

import math

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.layout import strongest
from cakd_mm.models.scorers import ScoringNetwork
from cakd_mm.models.scorers.scoring_network import FEATURE_RMS

N, C, K = 6, 8, 3
LABELS = torch.tensor([2, 0, 1, 1, 2, 0])


def build(**settings) -> ScoringNetwork:
    torch.manual_seed(0)
    settings = dict(channels=C, num_classes=K) | settings
    return MODELS.build(dict(type='ScoringNetwork', **settings))


def trained(**settings):
    """One whose gates and classes differ, as they hardly do at first."""
    scorer = build(**settings)
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter)
    return scorer


def numbers(*shape, seed=0):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 1


def line(layer, vector):
    return [
        sum(w * x for w, x in zip(row, vector, strict=True)) + bias
        for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def by_hand(scorer, feature, target):
    """Scores and auxiliary loss of a first batch, in Python's floats.

    ``target`` holds a distribution over the classes for each sample.
    """
    columns = list(zip(*feature.tolist(), strict=True))
    means = [sum(column) / len(column) for column in columns]
    deviations = [
        math.sqrt(sum((x - mean) ** 2 for x in column) / len(column) + 1e-5)
        for column, mean in zip(columns, means, strict=True)
    ]
    squares = [x * x for column in columns for x in column]
    size = FEATURE_RMS / math.sqrt(sum(squares) / len(squares))
    scores, errors, budgets = [], [], []
    for row, goal in zip(feature.tolist(), target, strict=True):
        normed = [(x - m) / d for x, m, d in zip(row, means, deviations, strict=True)]
        hidden = [max(h, 0.0) for h in line(scorer.gate[0], normed)]
        scores.append(line(scorer.gate[2], hidden))
        gates = [1 / (1 + math.exp(-s)) for s in scores[-1]]
        seen = [x * size * g for x, g in zip(row, gates, strict=True)]
        logits = line(scorer.classifier, seen)
        if scorer.multi_label:
            errors += [
                math.log(1 + math.exp(-z)) if mark else math.log(1 + math.exp(z))
                for z, mark in zip(logits, goal, strict=True)
            ]
        else:
            total = math.log(sum(math.exp(z) for z in logits))
            errors.append(
                sum(p * (total - z) for z, p in zip(logits, goal, strict=True))
            )
        budgets.append((sum(gates) / len(gates) - scorer.share) ** 2)
    mean = [sum(values) / len(values) for values in (errors, budgets)]
    return scores, scorer.loss_weight * (mean[0] + scorer.penalty * mean[1])


def one_hot():
    return torch.nn.functional.one_hot(LABELS, K)


# The auxiliary loss


@pytest.mark.parametrize(
    ('kind', 'settings'),
    [
        ('classes', dict()),
        ('rows', dict(share=0.3, penalty=50.0)),
        ('soft', dict(loss_weight=0.25, penalty=0.0)),
        ('several', dict(reduction=1)),
    ],
)
def test_the_auxiliary_loss_is_what_it_is_said_to_be(kind, settings):
    scorer = trained(multi_label=kind == 'several', **settings)
    soft = torch.rand(N, K, generator=torch.Generator().manual_seed(2)).softmax(1)
    several = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]] * 2)
    labels = dict(classes=LABELS, rows=one_hot(), soft=soft, several=several)[kind]
    target = (one_hot() if kind == 'classes' else labels).tolist()
    feature = numbers(N, C)
    scores = scorer(feature, labels)
    assert not scores.requires_grad
    want, auxiliary = by_hand(scorer, feature, target)
    assert_close(scores, torch.tensor(want), rtol=1e-4, atol=1e-5)
    assert scorer.auxiliary.item() == pytest.approx(auxiliary, rel=1e-4)
    gates = torch.tensor(want).sigmoid()
    assert scorer.terms['gate_mean'].item() == pytest.approx(gates.mean().item())
    spread = gates.std(dim=1, correction=0).mean().item()
    assert scorer.terms['gate_spread'].item() == pytest.approx(spread, rel=1e-4)


def test_the_budget_is_of_every_sample_not_of_their_mean():
    """Gates of 1 for half of the samples and 0 for the others."""
    scorer = build(penalty=3.0, reduction=2)
    with torch.no_grad():
        scorer.gate[0].weight.zero_()[0, 0] = 1
        scorer.gate[2].weight.zero_()[:, 0] = 100
        scorer.gate[2].bias.fill_(-50)
        scorer.classifier.weight.zero_()
        scorer.classifier.bias.zero_()
    feature = torch.zeros(4, C)
    feature[:2, 0] = 1
    scorer(feature, torch.zeros(4).long())
    assert scorer.auxiliary.item() == pytest.approx(math.log(K) + 3 * 0.25, rel=1e-5)


@pytest.mark.parametrize('share', [0.2, 0.7])
def test_it_starts_with_gates_about_the_share(share):
    scorer = build(channels=256, share=share)
    scorer(numbers(64, 256), torch.zeros(64).long())
    assert scorer.terms['gate_mean'].item() == pytest.approx(share, abs=0.01)
    assert 0 < scorer.terms['gate_spread'] < scorer.min_spread


def test_a_common_factor_of_the_feature_changes_nothing():
    scorer, other = trained(), trained()
    want = scorer(numbers(N, C), LABELS)
    assert_close(other(1e3 * numbers(N, C), LABELS), want, rtol=1e-3, atol=1e-3)
    assert_close(other.auxiliary, scorer.auxiliary, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ('channels', 'reduction', 'hidden'), [(64, 2, 32), (8, 4, 4), (3, 1, 4)]
)
def test_what_a_checkpoint_holds(channels, reduction, hidden):
    scorer = build(channels=channels, reduction=reduction)
    shapes = {name: tuple(value.shape) for name, value in scorer.state_dict().items()}
    assert shapes == {
        'norm.batches': (),
        'norm.mean': (channels,),
        'norm.var': (channels,),
        'gate.0.weight': (hidden, channels),
        'gate.0.bias': (hidden,),
        'gate.2.weight': (channels, hidden),
        'gate.2.bias': (channels,),
        'classifier.weight': (K, channels),
        'classifier.bias': (K,),
    }


def test_positions_are_averaged():
    scorer, feature = trained().eval(), numbers(N, C, 5)
    means = torch.stack([feature[..., place] for place in range(5)]).mean(0)
    assert_close(scorer(feature), scorer(means))


# Modes and gradients


def test_in_eval_mode_it_only_scores():
    scorer = trained()
    with torch.no_grad():
        scorer(numbers(N, C), LABELS)
    assert scorer.auxiliary is None  # nor without gradients
    assert scorer.norm.batches == 1
    scorer(numbers(N, C), LABELS)
    assert scorer.auxiliary is not None
    state = {name: value.clone() for name, value in scorer.state_dict().items()}
    scores = scorer.eval()(numbers(N, C, seed=1))
    assert scorer.auxiliary is None
    assert_close(dict(scorer.state_dict()), state, rtol=0, atol=0)
    deviation = (state['norm.var'] + 1e-5).sqrt()
    norm = (numbers(N, C, seed=1) - state['norm.mean']) / deviation
    assert_close(scores, scorer.gate(norm).detach())


def in_a_loss(**settings):
    loss = MODELS.build(
        dict(
            type='CAKDFeatureLoss',
            scorer=dict(type='ScoringNetwork', channels=C, num_classes=K),
            **settings,
        )
    )
    for parameter in loss.scorer.parameters():
        torch.nn.init.normal_(parameter)
    return loss


def test_the_auxiliary_loss_trains_the_scorer_alone_and_the_other_the_student():
    loss = in_a_loss(gamma='adaptive')
    student = numbers(N, C).requires_grad_()
    teacher = numbers(N, C, seed=1).abs().requires_grad_()
    weight = numbers(K, C, seed=2).requires_grad_()
    value = loss(student, teacher, LABELS, weight)
    assert loss.auxiliary is loss.scorer.auxiliary
    value.backward(retain_graph=True)
    assert student.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())
    student.grad = None
    loss.auxiliary.backward()
    assert student.grad is None and teacher.grad is None and weight.grad is None
    for name, parameter in loss.named_parameters():
        assert name.startswith('scorer.')
        assert parameter.grad.abs().max() > 0


def test_the_clusters_are_its_highest_gates():
    loss, student, teacher = in_a_loss(tau=2.0), numbers(N, C), numbers(N, C, seed=1)
    loss(student, teacher, LABELS)
    scores = loss.scorer.eval()(teacher).tolist()
    masses = []
    for row, line_ in zip(teacher, scores, strict=True):
        best = sorted(range(C), key=lambda c: -line_[c])[: C // 2]
        masses.append((row / 2).softmax(0)[best].sum())
    assert_close(loss.terms['strong_mass'], torch.stack(masses).mean())
    assert {'gate_mean', 'gate_spread'} <= set(loss.terms)


def test_it_needs_labels():
    assert ScoringNetwork.needs == ('gt_labels',)
    with pytest.raises(ValueError, match='ScoringNetwork needs gt_labels'):
        in_a_loss()(numbers(N, C), numbers(N, C))


# Precision


def test_autocast_changes_nothing():
    scorer, feature = trained(), numbers(N, C)
    want = scorer(feature, LABELS)
    auxiliary = scorer.auxiliary
    other = trained()
    with torch.autocast('cpu', torch.bfloat16):
        got = other(feature, LABELS)
    assert got.dtype == other.auxiliary.dtype == torch.float32
    assert_close(got, want, rtol=0, atol=0)
    assert_close(other.auxiliary, auxiliary, rtol=0, atol=0)


# Was once so: means over no samples make the loss and the statistics nan.
def test_no_samples_change_nothing():
    loss, (student, teacher) = in_a_loss(), numbers(2, N, C)
    loss(student, teacher, LABELS)
    state = {name: value.clone() for name, value in loss.scorer.state_dict().items()}
    value = loss(student[:0].requires_grad_(), teacher[:0], LABELS[:0])
    value = value + (0 if loss.auxiliary is None else loss.auxiliary)
    value.backward()
    assert value == 0
    for parameter in loss.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() == 0
    for name in ('norm.mean', 'norm.var'):
        assert_close(loss.scorer.state_dict()[name], state[name], rtol=0, atol=0)


# Was once so: a float64 feature meets the network's float32 weights.
def test_double_precision_features():
    feature = numbers(N, C)
    scores = trained()(feature.double(), LABELS)
    assert_close(scores.float(), trained()(feature, LABELS), rtol=1e-5, atol=1e-6)


# What it learns


TELLING = [1, 6, 10, 13]
VOTES = torch.tensor(
    [
        [1.0, 1.0, 0.0, 0.0],
        [-1.0, -1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 1.0],
        [0.0, 0.0, -1.0, -1.0],
        [1.0, 0.0, -1.0, 0.0],
        [0.0, -1.0, 0.0, 1.0],
    ]
)


def task(rows, draw):
    """Sixteen channels; four quiet ones decide the class of every sample."""
    feature = 3 * torch.rand(rows, 16, generator=draw)
    feature[:, TELLING] = 2 * torch.rand(rows, 4, generator=draw)
    return feature, ((feature[:, TELLING] - 1) @ VOTES.T).argmax(1)


def test_it_finds_the_channels_that_tell_and_keeps_to_its_budget():
    torch.manual_seed(0)
    scorer = ScoringNetwork(16, 6, share=0.25, patience=100)
    optimizer = torch.optim.SGD(scorer.parameters(), lr=0.1, momentum=0.9)
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        scorer(*task(64, draw))
        scorer.auxiliary.backward()
        optimizer.step()
    scorer.eval()
    feature, _ = task(1000, torch.Generator().manual_seed(1))
    shares = strongest(scorer(feature), 4)[:, TELLING].float().mean(0)
    assert shares.mean() > 0.95  # 0.25 by chance
    assert shares.min() > 0.85
    assert strongest(feature, 4)[:, TELLING].float().mean() < 0.2  # by magnitude
    terms = {name: value.item() for name, value in scorer.terms.items()}
    assert terms['gate_mean'] == pytest.approx(0.25, abs=0.15)
    assert terms['gate_spread'] > 2 * scorer.min_spread
    assert scorer.warning(terms) is None


def test_it_speaks_up_if_it_has_collapsed():
    scorer = build(min_spread=0.1)
    with torch.no_grad():
        scorer.gate[2].weight.zero_()  # all gates alike
    scorer.norm.batches.fill_(198)
    texts = []
    for _ in range(2):  # the 199th batch and the 200th
        scorer(numbers(N, C), LABELS)
        terms = {name: value.item() for name, value in scorer.terms.items()}
        assert terms['gate_spread'] == pytest.approx(0, abs=1e-6)
        texts.append(scorer.warning(terms))
    assert texts[0] is None
    assert 'collapsed' in texts[1] and 'scorer.penalty' in texts[1]
    # The border.
    assert scorer.warning({'gate_spread': 0.1}) is None
    assert 'differ by 0.0999 only' in scorer.warning({'gate_spread': 0.0999})
    assert scorer.warning({'r': 1.0}) is None
    loss = in_a_loss()
    loss.scorer = scorer
    assert loss.warning({'gate_spread': 0.01}) == scorer.warning({'gate_spread': 0.01})


# Mistakes


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('share', 0),
        ('share', 1),
        ('share', math.nan),
        ('channels', 0),
        ('num_classes', 0),
        ('reduction', 0),
        ('penalty', -1.0),
        ('loss_weight', math.nan),
        ('feature_rms', 0),
        ('min_spread', -1.0),
    ],
)
def test_wrong_numbers_are_named(name, value):
    with pytest.raises(ValueError, match=rf'{name}.*got .*{value}'):
        build(**{name: value})


def test_wrong_features_and_labels_are_named():
    message = r'has 5 channels.*scorer\.channels=8: write scorer\.channels=5'
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(N, 5), LABELS)
    rows = torch.tensor([[1.0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match='multi_label=True'):
        build()(torch.rand(2, C), rows)
