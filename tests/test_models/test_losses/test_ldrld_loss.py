"""LDRLDLoss and its maths: slow numbers, identities, mistakes."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import LDRLDLoss
from cakd_mm.models.losses.functional.ldrld import (
    likeliest_classes,
    pair_weights,
    ranked_pairs_kl,
)

ROWS, CLASSES = 6, 9


def build(**config) -> LDRLDLoss:
    return MODELS.build(dict(type='LDRLDLoss', **config))


def logits(rows=ROWS, classes=CLASSES, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(2, rows, classes, generator=draw)).double().unbind()


def kl(student, teacher, classes, tau):
    """The divergence of one row within some classes, by autograd."""
    log_p, log_q = ((row[classes] / tau).log_softmax(0) for row in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).sum()


def slow(preds_S, preds_T, tau, count, decay=0.05):
    """Row by row and pair by pair: sum of weighted pairs, top, remaining, mass."""
    found = []
    for student, teacher in zip(preds_S, preds_T, strict=True):
        order = sorted(range(len(student)), key=lambda c: -student[c].item())
        top, others = order[:count], order[count:]
        pairs = student.new_zeros(())
        for i, j in itertools.combinations(range(1, count + 1), 2):
            weight = 2 / (1.5 + abs(i - j)) * math.exp(-decay * (i + j))
            pairs = pairs + weight * kl(student, teacher, [top[i - 1], top[j - 1]], tau)
        remaining = kl(student, teacher, others, tau)
        mass = (teacher / tau).softmax(0)[top].sum()
        found.append((pairs, kl(student, teacher, top, tau), remaining, mass))
    return tuple(torch.stack(terms).mean() for terms in zip(*found, strict=True))


@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('count', [2, 3, 7, CLASSES - 1])
def test_against_the_slow_loop(count, tau):
    student, teacher = logits()
    leaves = [student.clone().requires_grad_() for _ in range(2)]
    loss = build(
        tau=tau, alpha=2.0, beta=0.7, top_classes=count, decay=0.3, loss_weight=3.0
    )
    got = loss(leaves[0], teacher)
    pairs, top, remaining, mass = slow(leaves[1], teacher, tau, count, 0.3)
    number = math.comb(count, 2)
    want = 3 * tau**2 * (2 * (pairs + top) / (number + 1) + 0.7 * remaining)
    # The weights of the pairs are float64, too.
    assert_close(got, want, rtol=1e-11, atol=0)
    for value in (got, want):
        value.backward()
    assert_close(leaves[0].grad, leaves[1].grad)
    assert_close(
        loss.terms,
        dict(
            pairs=tau**2 * pairs.detach(),
            top=tau**2 * top.detach(),
            remaining=tau**2 * remaining.detach(),
            top_mass=mass,
        ),
    )


def test_the_defaults_are_those_of_the_public_code():
    student, teacher = logits()
    pairs, top, remaining, _ = slow(student, teacher, 4.0, 7)
    want = 16 * (10.5 * (pairs + top) / 22 + 7 * remaining)
    assert_close(build()(student, teacher), want)


@pytest.mark.parametrize('count', [2, 3, 5])
def test_gradcheck_of_the_pairs(count):
    student, teacher = logits()
    ranked = likeliest_classes(student, count)
    assert torch.autograd.gradcheck(
        lambda s: ranked_pairs_kl(s, teacher, ranked, 1.7, 0.2),
        student.requires_grad_(),
    )


def test_the_weights_by_hand():
    """Ranks 1 and 2, 1 and 3, 2 and 3, in either order."""
    weights = pair_weights(
        torch.tensor([1.0, 3.0, 2.0]), torch.tensor([2.0, 1.0, 3.0]), math.log(2)
    )
    assert_close(weights, torch.tensor([0.8 / 8, 2 / 3.5 / 16, 0.8 / 32]))


def test_a_pair_by_hand():
    """The teacher gives one class 3/4 and the student 1/2: log 3, and 0, apart."""
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    student = torch.tensor([[0.0, -1e-30]])
    got = ranked_pairs_kl(student, teacher, torch.tensor([[0, 1]]), 2.0, 0.0)
    want = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert_close(got, torch.tensor([0.8 * want]))


def test_the_student_ranks_the_classes():
    student = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    teacher = student.flip(1)
    loss = build(tau=1.0, top_classes=2)
    loss(student, teacher)
    mass = teacher.softmax(1)[0, :2].sum()
    assert_close(loss.terms['top_mass'], mass)


def test_all_classes_are_the_likeliest():
    """Nothing remains then, and the divergence among the top is the plain one."""
    student, teacher = logits()
    loss = build(top_classes=CLASSES)
    loss(student, teacher)
    everything = list(range(CLASSES))
    rows = [kl(s, t, everything, 4.0) for s, t in zip(student, teacher, strict=True)]
    assert_close(loss.terms['top'], 16 * torch.stack(rows).mean())
    assert loss.terms['remaining'] == 0
    assert_close(loss.terms['top_mass'], torch.ones_like(rows[0]))


@pytest.mark.parametrize(
    ('weights', 'trained'),
    [(dict(alpha=0.0), 'remaining'), (dict(beta=0.0), 'top')],
)
def test_a_weight_of_zero_leaves_a_group_of_classes_out(weights, trained):
    student, teacher = logits()
    is_top = torch.zeros_like(student, dtype=torch.bool)
    is_top.scatter_(1, likeliest_classes(student, 4), True)
    build(top_classes=4, **weights)(student.requires_grad_(), teacher).backward()
    left_out = is_top if trained == 'remaining' else ~is_top
    assert not student.grad[left_out].any()
    assert student.grad[~left_out].all()


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    order=st.permutations(range(CLASSES)),
    level=st.floats(-1e3, 1e3),
    count=st.integers(2, CLASSES),
)
def test_names_and_level_of_the_classes_do_not_matter(order, level, count):
    student, teacher = logits()
    loss = build(top_classes=count)
    want = loss(student, teacher)
    assert want > 0
    assert_close(loss(student[:, order], teacher[:, order]), want)
    assert_close(loss(student + level, teacher - level), want)


def test_equal_scores_have_some_rank():
    """Half precision makes many scores equal; each class is in one group still."""
    student, teacher = torch.zeros(ROWS, CLASSES), logits()[1].float()
    loss = build(top_classes=4)
    assert loss(student, teacher).isfinite()
    ranked = likeliest_classes(student, 4)
    assert all(len(row.unique()) == 4 for row in ranked)


# Mistakes


def test_too_few_classes_are_refused_by_name():
    with pytest.raises(ValueError, match='top_classes is 7, but there are 5 classes'):
        build()(*logits(classes=5))


@pytest.mark.parametrize('value', [1, 0, -3, 2.5, True, None, '7'])
def test_no_number_of_classes(value):
    with pytest.raises(ValueError, match='top_classes must be an integer of at least'):
        build(top_classes=value)


@pytest.mark.parametrize(
    ('name', 'value'), [('tau', 0), ('alpha', -1), ('beta', 'x'), ('decay', -0.1)]
)
def test_a_number_out_of_range(name, value):
    with pytest.raises(ValueError, match=f'{name} must be a'):
        build(**{name: value})
