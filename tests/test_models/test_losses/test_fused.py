"""What is compiled and its eager twin: equal values, gradients and terms."""

import copy
import math
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from loss_twins import assert_alike, build, problem, step
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import fused
from cakd_mm.models.losses.functional import (
    decoupled_kl_and_mass,
    eager_clusters,
    eager_single_label,
    weighted_kl,
)

TWINS = {
    'label': (eager_single_label, fused.single_label, (2.5, 0.7, 3.0)),
    'mask': (eager_clusters, fused.clusters, (2.5, 0.7, 5.0, 3.0)),
}
KINDS = pytest.mark.parametrize('kind', TWINS)
DOUBLE = torch.float64


def assert_twins(kind, *tensors, atol=0.0):
    """Compare all results; the gradient by its largest element."""
    eager, form, weights = TWINS[kind]
    got, want = form(*tensors, *weights), eager(*tensors, *weights)
    rtol = 1e-6 if tensors[0].dtype == torch.float32 else 1e-12
    assert len(got) == len(want)
    for place, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.isfinite().all()
        assert a.dtype == b.dtype
        scale = b.abs().max().item() if b.numel() else 0.0
        near = rtol * max(scale, 1.0 if place != 1 else 0.0)
        assert_close(a, b, rtol=rtol, atol=near + atol)


@KINDS
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('rows', [0, 1, 9])
@pytest.mark.parametrize('classes', [1, 2, 13])
def test_the_forms_are_twins(kind, dtype, rows, classes):
    assert_twins(kind, *problem(kind, rows, classes, dtype=dtype), atol=1e-7)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    kind=st.sampled_from(sorted(TWINS)),
    rows=st.integers(1, 5),
    classes=st.integers(1, 40),
    scale=st.floats(1e-3, 50.0),
    seed=st.integers(0, 99),
)
def test_of_any_shape_and_scale(kind, rows, classes, scale, seed):
    tensors = problem(kind, rows, classes, scale, torch.float64, seed)
    assert_twins(kind, *tensors, atol=1e-12)


@KINDS
@pytest.mark.parametrize('scale', [1e3, 1e6, 1e30])
def test_hostile_scores(kind, scale):
    assert_twins(kind, *problem(kind, scale=scale))


@KINDS
@pytest.mark.parametrize('tau', [0.25, 4.0])
def test_the_largest_floats_stay_finite(kind, tau):
    student, teacher, third = problem(kind, rows=30)
    largest = torch.finfo(torch.float32).max
    student, teacher = (x.sign() * largest for x in (student, teacher))
    eager, form, weights = TWINS[kind]
    for function in (eager, form):
        value, grad, *_ = function(student, teacher, third, tau, *weights[1:])
        assert grad.isfinite().all()
        assert not value.isnan().any()


def test_known_weights_give_what_the_terms_give():
    student, teacher, mask = problem('mask', dtype=torch.float64)
    weights = (0.7, 5.0, 3.0)
    leaf = student.requires_grad_()
    terms, mass = decoupled_kl_and_mass(leaf, teacher, mask, 2.5)
    slow = sum(w * term for w, term in zip(weights, terms, strict=True)).mean()
    want = torch.autograd.grad(2.0 * 1.7 * slow, leaf)[0]
    mean, parts, weak = weighted_kl(leaf, teacher, mask, 2.5, *weights, factor=1.7)
    assert_close(mean, 1.7 * slow)
    assert_close((*parts, weak), (*terms, mass))
    assert not any(part.requires_grad for part in (*parts, weak))
    assert_close(torch.autograd.grad(2.0 * mean, leaf)[0], want)


# Compiled: in float64, since float32 on a CPU has kernels (tests/test_ops)


@pytest.fixture
def own_compilations():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters['stats']['unique_graphs']
    torch._dynamo.reset()


@KINDS
def test_compile_changes_nothing_but_speed(kind, own_compilations):
    compiled, eager = build(kind, compile=True), build(kind)
    for scale in (3.0, 1e3, 1e30):
        tensors = problem(kind, scale=scale, dtype=DOUBLE)
        assert_alike(step(compiled, *tensors), step(eager, *tensors))
    assert own_compilations() == 1
    assert 'compile=True' in repr(compiled)


@pytest.mark.parametrize('gamma', [2.0, 'adaptive'])
def test_compiled_features(gamma, own_compilations):
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 9, 16, generator=draw, dtype=DOUBLE).relu()
    settings = dict(type='CAKDFeatureLoss', gamma=gamma)
    compiled, eager = (
        MODELS.build(dict(settings, compile=compile)) for compile in (True, False)
    )
    for _ in range(3):
        assert_alike(step(compiled, student, teacher), step(eager, student, teacher))
    assert own_compilations() == 1


def test_batches_of_any_size_compile_twice_at_most(own_compilations):
    compiled, eager = build('label', compile=True), build('label')
    for rows in (16, 16, 7, 16, 5, 3, 11, 2, 30):
        tensors = problem('label', rows, dtype=DOUBLE)
        assert_alike(step(compiled, *tensors), step(eager, *tensors))
    assert own_compilations() == 2


def test_losses_do_not_use_up_each_others_compilations(own_compilations):
    tensors = problem('label', dtype=DOUBLE)
    limit = torch._dynamo.config.cache_size_limit
    for number in range(1, limit + 3):
        settings = dict(tau=1 + number / 10)
        got = step(build('label', compile=True, **settings), *tensors)
        assert_alike(got, step(build('label', **settings), *tensors))
    assert own_compilations() == number > limit


def test_compiled_labels_are_checked_and_the_loss_can_be_copied(own_compilations):
    loss, tensors = build('label', compile=True), problem('label', dtype=DOUBLE)
    value = step(loss, *tensors)
    for wrong in (tensors[2] + 13, tensors[2] - 13):
        with pytest.raises(ValueError, match=r'gt_labels holds -?\d+, .*13 classes'):
            loss(*tensors[:2], wrong)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert_close(step(twin, *tensors), value)
    assert own_compilations() == 3


def test_a_second_derivative_is_refused_after_compilation(own_compilations):
    loss = build('label', compile=True)
    student, *others = problem('label', dtype=DOUBLE)
    value = loss(student.requires_grad_(), *others)
    (grad,) = torch.autograd.grad(value**2, student, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_a_tracing_mode_leaves_nothing_behind():
    from torch._subclasses.fake_tensor import FakeTensorMode

    student, teacher, labels = problem('label')
    weights = 1.2345, 0.77, 3.21
    with FakeTensorMode() as mode:
        fakes = (mode.from_tensor(x) for x in (student, teacher, labels))
        eager_single_label(*fakes, *weights)
    got = eager_single_label(student, teacher, labels, *weights)
    assert_close(got, fused.single_label(student, teacher, labels, *weights))


def test_nan_stays_visible():
    for kind, (eager, form, weights) in TWINS.items():
        student, teacher, third = problem(kind)
        student[3, 4] = math.nan
        for function in (eager, form):
            assert function(student, teacher, third, *weights)[0].isnan().any()
