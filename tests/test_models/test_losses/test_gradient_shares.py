"""GradientShares: the lengths of the terms' gradients, measured by autograd."""

import copy

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses.functional import decoupled_kl
from cakd_mm.models.losses.functional.term_gradients import mean_square_gradients
from cakd_mm.models.losses.gradient_shares import GradientShares

ROWS, CLASSES, TAU = 6, 5, 2.0
SHARES = dict(bcd=0.2, scd=0.5, wcd=0.3)
NAMES = ('bcd', 'scd', 'wcd')
LABELS = torch.tensor([4, 0, 2, 2, 1, 3])


def batch(seed=0):
    draw = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, ROWS, CLASSES, generator=draw).double()
    mask = torch.rand(ROWS, CLASSES, generator=draw) < 0.5
    mask[:, 0], mask[:, 1], mask[:, 2:4] = True, False, mask[:, 2:4]
    return student, teacher, mask


def lengths(student, teacher, mask, weights=(1.0, 1.0, 1.0)):
    """Root mean square length of each weighted term's gradient, by autograd."""
    found = []
    for name, weight in zip(NAMES, weights, strict=True):
        leaf = student.clone().requires_grad_()
        rows = weight * getattr(decoupled_kl(leaf, teacher, mask, TAU), name)
        rows.sum().backward()
        found.append(leaf.grad.square().sum(1).mean().sqrt())
    return torch.stack(found)


def test_lengths_are_those_of_autograd():
    student, teacher, mask = batch()
    squares = mean_square_gradients(student, teacher, mask, TAU)
    assert_close(squares.sqrt(), lengths(student, teacher, mask))


def test_a_batch_has_the_shares_and_the_length_that_it_had():
    student, teacher, mask = (x for x in batch())
    given = (1.0, 8.0, 2.0)
    balance = GradientShares(SHARES, 'CAKDLogitLoss')
    weights = balance(student, teacher, mask, TAU, given)
    before = lengths(student, teacher, mask, given)
    after = lengths(student, teacher, mask, weights.tolist())
    assert_close(after.sum(), before.sum(), rtol=1e-5, atol=0)
    want = torch.tensor([SHARES[name] for name in NAMES]).double()
    assert_close(after / after.sum(), want, rtol=1e-5, atol=0)


def test_before_the_first_step_the_weights_are_those_given():
    balance = GradientShares(SHARES, 'x').eval()
    assert balance(*batch(), TAU, (1.0, 8.0, 2.0)).tolist() == [1, 8, 2]


def test_a_term_without_a_gradient_leaves_its_share_to_the_others():
    student, teacher, _ = batch()
    mask = torch.nn.functional.one_hot(LABELS, CLASSES) > 0
    weights = GradientShares(SHARES, 'x')(student, teacher, mask, TAU, (1.0, 1.0, 1.0))
    after = lengths(student, teacher, mask, weights.tolist())
    assert after[1] == 0
    assert_close(after.sum(), lengths(student, teacher, mask).sum(), rtol=1e-5, atol=0)
    assert_close(after[0] / after[2], torch.tensor(2 / 3).double(), rtol=1e-5, atol=0)


def test_equal_nets_have_no_weights():
    student, _, mask = batch()
    weights = GradientShares(SHARES, 'x')(student, student, mask, TAU, (1.0, 1.0, 1.0))
    assert weights.tolist() == [0, 0, 0]


def test_a_vanishing_term_gets_no_boundless_weight():
    student, teacher, mask = batch()
    same = torch.where(mask, student, teacher)  # SCD is 0 but for rounding
    near = same + 1e-12 * torch.randn_like(same)
    balance = GradientShares(SHARES, 'x')
    weights = balance(student, near, mask, TAU, (1.0, 2.0, 1.0))
    assert weights.max() == 4e3


def test_the_squares_are_running_means_and_saved():
    balance = GradientShares(SHARES, 'x', momentum=0.5)
    want = torch.zeros(3)
    for step in range(3):
        balance(*batch(step), TAU, (1.0, 1.0, 1.0))
        squares = mean_square_gradients(*batch(step), TAU).float()
        want += (squares - want) * max(1 / (step + 1), 0.5)
    assert_close(balance.squares.value, want)
    other = GradientShares(SHARES, 'x', momentum=0.5)
    # Other shares may be set when a run is resumed.
    assert set(balance.state_dict()) == {'squares.batches', 'squares.value'}
    other.load_state_dict(copy.deepcopy(balance.state_dict()))
    again, first = (
        module.eval()(*batch(9), TAU, (1.0, 1.0, 1.0)) for module in (other, balance)
    )
    assert again.equal(first)


@pytest.mark.parametrize('kind', ['CAKDLogitLoss', 'CAKDFeatureLoss'])
def test_the_losses_weigh_their_terms_with_it(kind):
    options = dict(strong_classes=2) if kind == 'CAKDLogitLoss' else {}
    settings = dict(tau=TAU, alpha=1.0, beta=4.0, gamma=2.0, loss_weight=0.5, **options)
    student, teacher, _ = batch()
    plain = MODELS.build(dict(type=kind, **settings))
    loss = MODELS.build(dict(type=kind, gradient_shares=SHARES, **settings))
    values = {}
    for module in (plain, loss):
        values[module] = module(student, teacher, gt_labels=LABELS)
    terms = loss.terms
    parts = [terms[f'{name}_weight'] * terms[name] for name in NAMES]
    assert_close(values[loss].double(), 0.5 * sum(parts).double(), rtol=1e-6, atol=0)
    assert_close([terms[name] for name in NAMES], [plain.terms[name] for name in NAMES])
    assert abs(values[loss] - values[plain]) > 1e-3 * values[plain]
    given = (LABELS, teacher) if kind == 'CAKDLogitLoss' else (teacher, None, None)
    weights = [terms[f'{name}_weight'].item() for name in NAMES]
    found = lengths(student, teacher, loss._strong(*given), weights)
    want = torch.tensor([SHARES[name] for name in NAMES]).double()
    assert_close(found / found.sum(), want, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    'shares',
    [
        dict(bcd=0.5, scd=0.5),
        dict(bcd=0.5, scd=0.6, wcd=0.2),
        dict(bcd=0.5, scd=0.3, wcd=0.1),
        dict(bcd=1.5, scd=-0.5, wcd=0.0),
        dict(bcd='a', scd=0.5, wcd=0.5),
        dict(bcd=0.5, scd=0.3, wcd=0.2, tcd=0.0),
        (0.2, 0.3, 0.5),
        0.5,
    ],
    ids=str,
)
def test_shares_that_are_none(shares):
    with pytest.raises(ValueError, match=r'gradient_shares.*CAKDLogitLoss.*bcd=0\.2'):
        MODELS.build(dict(type='CAKDLogitLoss', gradient_shares=shares))


def test_an_adaptive_weight_and_shares_contradict_each_other():
    cfg = dict(type='CAKDFeatureLoss', gamma='adaptive', gradient_shares=SHARES)
    with pytest.raises(ValueError, match='gradient_shares.*adaptive.*Leave out one'):
        MODELS.build(cfg)
