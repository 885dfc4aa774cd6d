"""MLKDLoss and its maths: slow numbers, which view is compared where, mistakes."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import MLKDLoss
from cakd_mm.models.losses.functional.mlkd import (
    batch_gap,
    class_gap,
    probabilities,
    share_up_to_median,
)
from cakd_mm.models.losses.functional.standardized import standardized

IMAGES, CLASSES = 5, 4
LEVELS = ('instance', 'class_level', 'batch_level')


def build(**config) -> MLKDLoss:
    return MODELS.build(dict(type='MLKDLoss', **config)).double()


@pytest.fixture
def logits():
    """Return both nets' logits of two views of five images."""
    draw = torch.Generator().manual_seed(0)
    pair = 3 * torch.randn(2, 2 * IMAGES, CLASSES, generator=draw)
    return pair.double().unbind()


def softmax(row, tau):
    powers = [math.exp(x / tau) for x in row]
    return [x / sum(powers) for x in powers]


def slow_kl(student, teacher, tau):
    """The mean over the images, number by number."""
    total = 0.0
    for row_S, row_T in zip(student, teacher, strict=True):
        p_S, p_T = softmax(row_S, tau), softmax(row_T, tau)
        total += sum(t * math.log(t / s) for s, t in zip(p_S, p_T, strict=True))
    return tau**2 * total / len(student)


def slow_gap(rows_S, rows_T):
    """The squared differences of all products of two rows, over the number of rows."""
    total = 0.0
    for i in range(len(rows_S)):
        for j in range(len(rows_S)):
            product_S = sum(x * y for x, y in zip(rows_S[i], rows_S[j], strict=True))
            product_T = sum(x * y for x, y in zip(rows_T[i], rows_T[j], strict=True))
            total += (product_T - product_S) ** 2
    return total / len(rows_S)


def slow_levels(student, teacher, both, weak_only):
    """The three levels and the share of images, by loops over plain numbers."""
    weak_S, strong_S = student[:IMAGES].tolist(), student[IMAGES:].tolist()
    weak_T, strong_T = teacher[:IMAGES].tolist(), teacher[IMAGES:].tolist()
    sure = [softmax(row, 1.0) for row in weak_T]
    of_images = [max(row) for row in sure]
    of_classes = [sum(column) for column in zip(*sure, strict=True)]
    share, class_share = (
        sum(x <= np.percentile(values, 50) for x in values) / len(values)
        for values in (of_images, of_classes)
    )
    instance = class_level = batch_level = 0.0
    for tau in (*both, *weak_only):
        instance += share * slow_kl(weak_S, weak_T, tau)
        rows_S = [softmax(row, tau) for row in weak_S]
        rows_T = [softmax(row, tau) for row in weak_T]
        batch_level += share * slow_gap(rows_S, rows_T)
        columns = (list(zip(*rows, strict=True)) for rows in (rows_S, rows_T))
        class_level += class_share * slow_gap(*columns)
    instance += sum(slow_kl(strong_S, strong_T, tau) for tau in both)
    instance += sum(slow_kl(weak_S, weak_T, tau) for tau in weak_only)
    return instance, class_level, batch_level, share


# Slow numbers


@pytest.mark.parametrize(
    ('both', 'weak_only'),
    [((4.0, 3.0, 5.0), (2.0, 6.0)), ((1.5,), ()), ((2.0,), (2.0, 0.7))],
)
def test_against_the_slow_reference(logits, both, weak_only):
    loss = build(
        tau=both[0],
        taus=both[1:],
        weak_taus=list(weak_only),
        class_weight=0.3,
        batch_weight=7.0,
        loss_weight=1.7,
    )
    value = loss(*logits)
    *levels, share = slow_levels(*logits, both, weak_only)
    for name, want in zip(LEVELS, levels, strict=True):
        assert loss.terms[name].item() == pytest.approx(want, rel=1e-12)
    # Three of five images, and two of four classes.
    assert loss.terms['share'].item() == pytest.approx(share) == pytest.approx(0.6)
    want = 1.7 * (levels[0] + 0.3 * levels[1] + 7.0 * levels[2])
    assert value.item() == pytest.approx(want, rel=1e-12)


def test_the_defaults(logits):
    *levels, _ = slow_levels(*logits, (4.0, 3.0, 5.0), (2.0, 6.0))
    assert build()(*logits).item() == pytest.approx(sum(levels), rel=1e-12)


def test_relations_by_hand():
    """Two images, two classes; the teacher is sure, the student knows nothing."""
    student = torch.zeros(2, 2).double()
    teacher = 2.0 * torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]]).double()
    quarters = torch.tensor([[3, 1], [1, 3]]).double()
    assert_close(probabilities(teacher, 2.0), quarters / 4)
    # Each product of two rows is 10 / 16 or 6 / 16, and 1 / 2 for the student.
    for gap in (class_gap, batch_gap):
        assert gap(student, teacher, 2.0).item() == pytest.approx(4 * 0.125**2 / 2)


@pytest.mark.parametrize('times', [2, 3])
def test_relations_grow_with_the_batch(logits, times):
    student, teacher = logits
    more = student.repeat(times, 1), teacher.repeat(times, 1)
    once = class_gap(student, teacher, 3.0)
    assert_close(class_gap(*more, 3.0), times**2 * once)
    assert_close(batch_gap(*more, 3.0), times * batch_gap(student, teacher, 3.0))


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.75, 2.0]), max_size=9))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_the_share_is_that_of_numpys_median(values):
    share = share_up_to_median(torch.tensor(values))
    if values:
        want = np.mean(np.array(values) <= np.percentile(values, 50))
        assert share.item() == pytest.approx(want)
    else:
        assert share == 0


def test_probabilities_keep_their_precision_at_an_offset():
    scores = torch.tensor([[1e4, 1e4 - 1, 1e4 - 2]])
    want = torch.tensor([[2.0, 1.0, 0.0]]).div(0.3).softmax(-1)
    assert_close(probabilities(scores, 0.3), want, rtol=1e-6, atol=0)


# Which view is compared where


def gradients(loss, student, teacher):
    """The mean absolute gradient by the weak and by the strong logits."""
    leaf = student.clone().requires_grad_()
    loss(leaf, teacher).backward()
    return [x.abs().mean().item() for x in leaf.grad.chunk(2)]


def test_the_strong_view_is_compared_by_itself_alone(logits):
    """At its own temperatures; where it is equal, it has no gradient."""
    student, teacher = logits
    weak, strong = gradients(build(), student, teacher)
    assert weak > 0 and strong > 0
    equal = torch.cat((student[:IMAGES], teacher[IMAGES:]))
    assert gradients(build(), equal, teacher)[1] < 1e-12
    first, second = (
        build(tau=2.0, taus=[], weak_taus=[]),
        build(tau=2.0, taus=[], weak_taus=[9.0]),
    )
    # A temperature of the weak view changes nothing of the strong one.
    assert gradients(first, student, teacher)[1] == pytest.approx(
        gradients(second, student, teacher)[1]
    )


def test_the_masks_come_from_the_weak_view_of_the_teacher(logits):
    student, teacher = logits
    loss = build()
    loss(student, teacher)
    before = loss.terms
    loss(student, torch.cat((teacher[:IMAGES], 9 * teacher[IMAGES:])))
    for name in (*LEVELS[1:], 'share'):
        assert_close(loss.terms[name], before[name], rtol=0, atol=0)
    # Equally sure images are all up to the median.
    equal = teacher[:1].expand(2 * IMAGES, -1)
    loss(student, equal)
    assert loss.terms['share'] == 1


def test_images_are_unsure_at_temperature_one():
    """Leads of 60 and more are all a probability of 1 there, and not at 4."""
    teacher = torch.zeros(8, 2).double()
    teacher[:4, 0] = torch.tensor([60.0, 64.0, 68.0, 72.0])
    loss = build()
    loss(torch.zeros(8, 2).double(), teacher)
    assert loss.terms['share'] == 1


def test_classes_are_compared_by_the_sum_of_their_probabilities():
    """All three have the same highest one, and the first two sums are the least."""
    weak = torch.eye(3).double() * math.log(2)
    weak = torch.cat((weak, torch.tensor([[0.0, 0.2, 0.3]]).double()))
    student = torch.zeros(8, 3).double()
    loss = build(taus=[], weak_taus=[])
    loss(student, weak.repeat(2, 1))
    gap = class_gap(student[:4], weak, 4.0)
    assert_close(loss.terms['class_level'], 2 / 3 * gap)


def test_standardising_is_of_the_divergences_alone(logits):
    student, teacher = logits
    plain, standard = build(), build(standardize=True)
    plain(student, teacher)
    standard(student, teacher)
    for name in (*LEVELS[1:], 'share'):
        assert_close(standard.terms[name], plain.terms[name], rtol=0, atol=0)
    before = standard.terms['instance']
    plain(*map(standardized, logits))
    assert_close(plain.terms['instance'], before)
    plain(student, teacher)
    assert (before - plain.terms['instance']).abs() > 0.1
    # Neither level nor size of the student's logits counts.
    standard(5 * student + 2, teacher)
    assert_close(standard.terms['instance'], before, rtol=1e-5, atol=0)


def test_order_of_the_images_does_not_count(logits):
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = [x[torch.cat((order, order + IMAGES))] for x in logits]
    assert_close(build()(*moved), build()(*logits))
    wrong = [x[torch.cat((order, torch.arange(IMAGES, 2 * IMAGES)))] for x in logits]
    assert_close(build()(*wrong), build()(*logits))  # views are not paired by row


# Mistakes


def test_a_batch_of_one_view_that_is_odd_is_named():
    with pytest.raises(ValueError, match=r'3 rows.*MultiView.*train_dataloader'):
        build()(torch.zeros(3, 2), torch.zeros(3, 2))


@pytest.mark.parametrize('name', ['taus', 'weak_taus'])
@pytest.mark.parametrize(
    ('taus', 'error'), [(3.0, TypeError), ([0], ValueError), (['3'], ValueError)]
)
def test_wrong_temperatures_are_named(name, taus, error):
    with pytest.raises(error, match=f'{name} must be.*MLKDLoss'):
        build(**{name: taus})


def test_it_says_how_many_views_it_compares():
    assert MLKDLoss.views == 2
    assert build(taus=(3, 5)).taus == (3, 5)
