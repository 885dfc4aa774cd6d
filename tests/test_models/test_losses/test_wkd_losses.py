"""WKD's losses: linear programmes, closed forms, slow loops and mistakes of users."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmrazor.registry import MODELS
from scipy.linalg import sqrtm
from scipy.optimize import linprog
from torch.testing import assert_close

from cakd_mm.models.losses.functional.wkd import (
    EPS,
    cosine_decay,
    costs_of_weights,
    pooled_moments,
    wasserstein_kd,
)

ROWS, CLASSES, WIDTH = 6, 5, 3
LABELS = torch.tensor([4, 0, 2, 2, 1, 3])
NAMES = ('WKDLogitLoss', 'WKDFeatureLoss')
EACH = pytest.mark.parametrize('name', NAMES)


def build(name='WKDLogitLoss', **config):
    return MODELS.build(dict(type=name, **config))


def drawn(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


@pytest.fixture
def logits():
    return (2 * drawn(2, ROWS, CLASSES)).unbind()


@pytest.fixture
def weight():
    return drawn(CLASSES, WIDTH, seed=1)


def slow_costs(weight, sharpness):
    rows = weight.tolist()
    costs = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            if i != j:
                dot = sum(a * b for a, b in zip(one, other, strict=True))
                cosine = dot / (math.hypot(*one) * math.hypot(*other))
                costs[i, j] = 1 - math.exp(-sharpness * (1 - cosine))
    return costs


def slow_plan(q_S, q_T, costs, entropy_weight, iterations):
    """Scale rows and columns of one sample's plan in turn, number by number."""
    count = len(q_S)
    plan = (-costs / entropy_weight).exp()
    for _ in range(iterations):
        columns = [sum(plan[i, j] for i in range(count)) for j in range(count)]
        plan = plan * torch.stack([q_T[j] / columns[j] for j in range(count)])
        rows = [sum(plan[i, j] for j in range(count)) for i in range(count)]
        plan = torch.stack([plan[i] * q_S[i] / rows[i] for i in range(count)])
    return plan


def slow(preds_S, preds_T, costs, tau, entropy_weight, iterations):
    """Both terms, sample by sample."""
    target, transport = [], []
    for student, teacher, label in zip(preds_S, preds_T, LABELS, strict=True):
        target.append(-teacher.softmax(0)[label] * student.log_softmax(0)[label])
        rest = [i for i in range(len(student)) if i != label]
        q_S, q_T = ((x[rest] / tau).softmax(0) for x in (student, teacher))
        part = costs[rest][:, rest]
        plan = slow_plan(q_S, q_T, part, entropy_weight, iterations)
        transport.append((plan * part).sum())
    return torch.stack(target), torch.stack(transport)


# The distance between classes


@pytest.mark.parametrize('sharpness', [0.5, 2.0])
def test_costs_against_a_loop(weight, sharpness):
    costs = costs_of_weights(weight.requires_grad_(), sharpness)
    assert_close(costs, slow_costs(weight, sharpness))
    assert not costs.requires_grad


def test_costs_by_hand_and_at_the_ends():
    weight = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0], [6.0, 0.0]])
    near, far = 1 - math.exp(-1), 1 - math.exp(-2)
    want = [0, near, far, near, 0]
    assert_close(costs_of_weights(weight, 1.0)[0], torch.tensor(want))
    sharp = costs_of_weights(1e12 * weight, 1e6)
    assert_close(sharp[0], torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))


def test_rounding_makes_no_cost_negative():
    """And none of a class to itself, which a large sharpness would show."""
    rows = drawn(40, 7).float()
    costs = costs_of_weights(torch.cat((rows, 3 * rows)), 1e6)
    assert costs.min() == 0
    assert not costs.diagonal().any()


@pytest.mark.parametrize(('tau', 'entropy_weight'), [(1.0, 0.05), (4.0, 0.3)])
@pytest.mark.parametrize('iterations', [1, 2, 7])
def test_against_the_slow_reference(logits, weight, tau, entropy_weight, iterations):
    # Costs that are not symmetric tell rows from columns.
    costs = slow_costs(weight, 1.0) * torch.linspace(0.5, 1, CLASSES).double()
    factors = torch.arange(1.0, 2 * ROWS + 1).sqrt().view(2, ROWS).double()
    settings = costs, tau, entropy_weight, iterations
    leaves = [logits[0].clone().requires_grad_() for _ in range(2)]
    found = torch.stack(wasserstein_kd(leaves[0], logits[1], LABELS, *settings))
    wanted = torch.stack(slow(leaves[1], logits[1], *settings))
    assert_close(found, wanted)
    for result in (found, wanted):
        (factors * result).sum().backward()
    assert_close(leaves[0].grad, leaves[1].grad)


@pytest.mark.parametrize('term', ['target', 'transport'])
@pytest.mark.parametrize('classes', [2, 3, 7])
def test_gradcheck(classes, term):
    student, teacher = drawn(2, 4, classes, seed=classes)
    costs = costs_of_weights(drawn(classes, 3), 1.0)
    labels = torch.arange(4) % classes
    assert torch.autograd.gradcheck(
        lambda s: getattr(wasserstein_kd(s, teacher, labels, costs, 1.7, 0.1, 3), term),
        student.requires_grad_(),
    )


def linear_programme(q_S, q_T, costs):
    """The least cost of moving one row of probabilities to another."""
    count = len(q_S)
    rows = np.kron(np.eye(count), np.ones(count))
    columns = np.kron(np.ones(count), np.eye(count))
    equal = np.concatenate((rows, columns)), np.concatenate((q_S, q_T))
    result = linprog(np.asarray(costs).ravel(), A_eq=equal[0], b_eq=equal[1])
    assert result.success
    return result.fun


def transport_without_label(q_S, q_T, costs, entropy_weight, iterations):
    """Let a class that is the label of all samples join the others."""
    count = len(q_S) + 1
    scores = [torch.cat((torch.zeros(1).double(), q.log()))[None] for q in (q_S, q_T)]
    wide = torch.zeros(count, count, dtype=torch.float64)
    wide[1:, 1:] = costs
    label = torch.zeros(1, dtype=torch.int64)
    found = wasserstein_kd(*scores, label, wide, 1.0, entropy_weight, iterations)
    return found.transport.item()


@pytest.mark.parametrize('seed', range(5))
def test_little_entropy_and_many_iterations_come_near_the_linear_programme(seed):
    q_S, q_T = (2 * drawn(2, 6, seed=seed)).softmax(1)
    costs = costs_of_weights(drawn(6, 3, seed=seed + 9), 1.0)
    exact = linear_programme(q_S, q_T, costs)
    found = [
        transport_without_label(q_S, q_T, costs, weight, 3000) - exact
        for weight in (0.3, 0.1, 0.02)
    ]
    assert found[0] > found[1] > found[2] >= -1e-6
    assert found[2] < 0.02 * exact


def test_much_entropy_pairs_classes_at_random():
    q_S, q_T = drawn(2, 6).softmax(1)
    costs = costs_of_weights(drawn(6, 3), 1.0)
    found = transport_without_label(q_S, q_T, costs, 1e6, 5)
    assert found == pytest.approx(float(q_S @ costs @ q_T), rel=1e-6)


def test_equal_costs_give_the_share_that_moves():
    """Without interrelations the distance is half the sum of the differences."""
    q_S, q_T = drawn(2, 6).softmax(1)
    costs = 1 - torch.eye(6, dtype=torch.float64)
    found = transport_without_label(q_S, q_T, costs, 0.02, 1000)
    assert found == pytest.approx(float((q_S - q_T).abs().sum() / 2), rel=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    scale=st.floats(0.01, 1e6),
    tau=st.floats(0.01, 100),
    entropy_weight=st.floats(0.02, 1e6),
    iterations=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_it_is_a_cost_and_follows_the_classes(
    scale, tau, entropy_weight, iterations, seed
):
    """From 0 to the largest cost; the same in another order or at another level."""
    student, teacher = (scale * drawn(2, ROWS, CLASSES, seed=seed)).unbind()
    costs = costs_of_weights(drawn(CLASSES, WIDTH, seed=seed + 1), 1.0)
    rest = tau, entropy_weight, iterations
    _, found = wasserstein_kd(student, teacher, LABELS, costs, *rest)
    assert (found >= 0).all() and (found <= costs.max()).all()
    order = torch.tensor([2, 4, 0, 1, 3])
    moved = wasserstein_kd(
        student[:, order] + 3,
        teacher[:, order] - 5,
        order.argsort()[LABELS],
        costs[order][:, order],
        *rest,
    )
    assert_close(moved.transport, found, rtol=1e-5, atol=1e-9)


def test_mass_costs_less_between_like_classes():
    """The reason for the method: a KL would see no difference."""
    weight = torch.tensor([[1.0, 0.0], [0.99, 0.1], [-1.0, 0.1], [0.0, 1.0]])
    teacher = torch.tensor([[5.0, 0.0, 0.0, 9.0]])
    label = torch.tensor([3])
    costs = costs_of_weights(weight, 1.0)
    like, unlike = (
        wasserstein_kd(torch.tensor([row]), teacher, label, costs).transport
        for row in ([0.0, 5.0, 0.0, 9.0], [0.0, 0.0, 5.0, 9.0])
    )
    assert like < 0.1 < 0.7 < unlike


@pytest.mark.parametrize('classes', [1, 2])
def test_without_two_other_classes_nothing_moves(classes):
    student = drawn(3, classes).requires_grad_()
    costs = costs_of_weights(drawn(classes, 2), 1.0)
    labels = torch.arange(3) % classes
    found = wasserstein_kd(student, drawn(3, classes, seed=1), labels, costs)
    found.transport.sum().backward()
    assert not found.transport.any() and not student.grad.any()


def test_what_is_kept_for_backward_is_two_matrices(logits, weight):
    """The graph of the iterations lives in forward alone."""
    costs = costs_of_weights(weight, 1.0)
    found = wasserstein_kd(logits[0].requires_grad_(), logits[1], LABELS, costs)
    kept = found.transport.grad_fn.saved_tensors
    assert [x.shape for x in kept] == [logits[0].shape] * 2


def test_the_logit_loss_and_its_weights(logits, weight):
    costs = slow_costs(weight, 1.5)
    target, transport = slow(*logits, costs, 4.0, 0.1, 3)
    options = dict(tau=4.0, gamma=7.0, sharpness=1.5, entropy_weight=0.1, iterations=3)
    loss = build(**options, loss_weight=0.2)
    found = loss(*logits, LABELS, weight)
    assert_close(found, 0.2 * (target + 7 * transport).mean())
    assert_close(loss.terms, dict(target=target.mean(), transport=transport.mean()))
    target, transport = slow(*logits, slow_costs(weight, 1.0), 2.0, 0.05, 10)
    assert_close(build()(*logits, LABELS, weight), (target + 30 * transport).mean())


def test_standardised_logits_come_without_size_and_level(logits, weight):
    student, teacher = logits
    loss = build(standardize=True)
    found = loss(student, teacher, LABELS, weight)
    assert_close(loss(5 * student + 2, teacher / 3, LABELS, weight), found)
    plain = [(x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in logits]
    assert_close(found, build()(*plain, LABELS, weight), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ('shape', 'dtype', 'error', 'message'),
    [
        ((4, 3), torch.float32, ValueError, r'head_weight.*\(4, 3\).*5 classes.*Tap'),
        ((5,), torch.float32, ValueError, r'head_weight.*\(5,\).*classifier\.weight'),
        ((5, 3), torch.int64, TypeError, 'head_weight must be a float tensor'),
    ],
)
def test_a_wrong_weight_is_named(logits, shape, dtype, error, message):
    with pytest.raises(error, match=message):
        build()(*logits, LABELS, torch.ones(shape, dtype=dtype))


def test_a_teacher_without_such_a_weight_is_named(logits):
    """Several teachers have no `classifier`, and None is recorded for it."""
    with pytest.raises(ValueError, match=r'of several teachers.*a\.classifier\.weight'):
        build()(*logits, LABELS, None)


def test_a_weight_in_half_precision_is_as_good(logits, weight):
    half = weight.half()
    assert_close(
        build()(*logits, LABELS, half), build()(*logits, LABELS, half.double())
    )


@pytest.mark.parametrize(
    ('name', 'config', 'message'),
    [
        ('WKDLogitLoss', dict(entropy_weight=0.019), 'at least 0.02, got 0.019'),
        ('WKDLogitLoss', dict(iterations=0), 'iterations must be.*got 0'),
        ('WKDLogitLoss', dict(iterations=2.5), 'iterations must be.*got 2.5'),
        ('WKDFeatureLoss', dict(grid=0), 'grid must be a positive integer, got 0'),
        *(
            (name, config, 'decay_from=.*decay_to=.*two numbers of epochs')
            for name in NAMES
            for config in (
                dict(decay_from=3),
                dict(decay_to=3),
                dict(decay_from=3, decay_to=3),
                dict(decay_from=-1, decay_to=3),
                dict(decay_from=1.5, decay_to=3),
            )
        ),
    ],
)
def test_wrong_settings_are_named(name, config, message):
    with pytest.raises(ValueError, match=message):
        build(name, **config)


# The weight that falls


def test_the_weight_falls_along_half_a_cosine():
    found = [cosine_decay(epoch, 2, 6) for epoch in range(9)]
    steps = [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]
    assert found == pytest.approx([1, 1, *steps, 0, 0])


def called(loss, logits, weight):
    if type(loss).__name__ == 'WKDLogitLoss':
        return loss(*logits, LABELS, weight)
    return loss(*([x] for x in logits))


@EACH
def test_the_last_epochs_count_less(name, logits, weight):
    """The label's part keeps its weight, because it is a part of the task."""
    loss = build(name, decay_from=2, decay_to=6, loss_weight=1.0)
    assert loss.needs_epoch and not build(name).needs_epoch
    whole = called(build(name, loss_weight=1.0), logits, weight)
    rest = loss.terms.get('target', 0)
    # The fourth epoch is in the middle of the fall.
    for epoch, factor in ((0, 1.0), (1, 1.0), (3, 0.5), (5, 0.0), (7, 0.0)):
        loss.set_epoch(epoch)
        found = called(loss, logits, weight)
        rest = loss.terms.get('target', torch.zeros(()).double())
        assert_close(found, rest + factor * (whole - rest))
        assert loss.terms['decay'] == pytest.approx(factor)


@EACH
def test_a_step_of_training_has_to_know_its_epoch(name, logits, weight):
    loss = build(name, decay_from=2, decay_to=6)
    with pytest.raises(ValueError, match=r'default_hooks\.distill_epoch.*Loss changes'):
        called(loss.train(), logits, weight)
    assert called(loss.eval(), logits, weight) > 0
    for wrong in (-1, 1.5, None, True):
        with pytest.raises(ValueError, match=f'epoch must be .*{wrong}'):
            loss.set_epoch(wrong)


# The distance between maps


def slow_moments(channel, grid):
    """Mean and deviation in every cell of one channel, (H, W)."""
    found = []
    height, width = channel.shape
    for i in range(grid):
        for j in range(grid):
            rows = range(
                math.floor(i * height / grid), math.ceil((i + 1) * height / grid)
            )
            columns = range(
                math.floor(j * width / grid), math.ceil((j + 1) * width / grid)
            )
            values = [channel[y, x] for y in rows for x in columns]
            mean = sum(values) / len(values)
            squares = sum((x - mean) ** 2 for x in values)
            found.append((mean, (squares / max(len(values) - 1, 1) + 1e-5) ** 0.5))
    return found


@pytest.mark.parametrize('grid', [1, 2, 4, 5])
@pytest.mark.parametrize('size', [(4, 6), (7, 7), (1, 1)])
def test_moments_against_a_loop(size, grid):
    maps = drawn(2, 3, *size)
    means, deviations = pooled_moments(maps, grid)
    assert means.shape == deviations.shape == (2, 3, grid * grid)
    for n in range(2):
        for c in range(3):
            wanted = torch.tensor(slow_moments(maps[n, c].numpy(), grid)).T
            assert_close(torch.stack((means[n, c], deviations[n, c])), wanted)
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, grid)
    assert_close(means, pooled.flatten(2))


def test_the_distance_is_that_of_gaussians_with_independent_channels():
    """By the formula for any two Gaussians, with roots of matrices."""
    maps = [3 * drawn(1, 4, 5, 6, seed=seed) + seed for seed in (0, 1)]
    moments = [pooled_moments(x, 1) for x in maps]
    means = [mean[0, :, 0].numpy() for mean, _ in moments]
    covariances = [np.diag(x[0].flatten(1).var(1).numpy() + EPS) for x in maps]
    root = sqrtm(covariances[0])
    cross = sqrtm(root @ covariances[1] @ root)
    bures = np.trace(covariances[0] + covariances[1] - 2 * np.real(cross))
    wanted = np.square(means[0] - means[1]).sum() + bures
    loss = build('WKDFeatureLoss', mean_weight=1.0, loss_weight=1.0)
    assert float(loss([maps[0]], [maps[1]])) == pytest.approx(wanted)
    assert float(loss.terms['deviation']) == pytest.approx(bures)


def test_the_feature_loss_and_its_weights():
    shapes = ((3, 4, 6, 7), (3, 2, 5, 5))
    ours, theirs = (
        [drawn(*shape, seed=10 * side + i) for i, shape in enumerate(shapes)]
        for side in (0, 1)
    )
    grid = 2
    wanted = torch.zeros(2, 2, dtype=torch.float64)  # level, term
    for level, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        for n in range(3):
            for c in range(own.shape[1]):
                pairs = zip(
                    slow_moments(own[n, c], grid),
                    slow_moments(other[n, c], grid),
                    strict=True,
                )
                for one, two in pairs:
                    for term in (0, 1):
                        gap = (one[term] - two[term]) ** 2
                        wanted[level, term] += gap / (3 * grid**2)
    loss = build('WKDFeatureLoss', mean_weight=3.0, grid=grid, loss_weight=0.5)
    found = loss(ours, theirs)
    mean, deviation = wanted.sum(0)
    assert_close(found, 0.5 * (3 * mean + deviation))
    levels = dict(level_1=wanted[0].sum(), level_2=wanted[1].sum())
    assert_close(loss.terms, dict(mean=mean, deviation=deviation, **levels))
    # The defaults, between means that differ by 1 in each of 4 channels.
    shifted = build('WKDFeatureLoss')([ours[0]], [ours[0] + 1])
    assert shifted.item() == pytest.approx(0.02 * 2 * 4)


def test_gradcheck_of_moments():
    maps = drawn(2, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pooled_moments(x, 2), maps)


def test_a_constant_map_has_a_gradient():
    maps = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = build('WKDFeatureLoss', mean_weight=0.0)
    loss([maps], [drawn(1, 2, 4, 4).float()]).backward()
    assert maps.grad.isfinite().all()


def test_where_a_channel_is_active_does_not_matter_within_a_cell():
    maps = drawn(2, 3, 4, 4)
    shuffled = maps.flatten(2)[:, :, torch.randperm(16)].view_as(maps)
    whole, cells = (build('WKDFeatureLoss', grid=grid) for grid in (1, 2))
    assert whole([shuffled], [maps]) < 1e-12 < 1e-3 < cells([shuffled], [maps])
