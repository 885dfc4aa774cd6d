"""Native kernels of the losses against their eager twins."""

import copy
import math
import pickle
import subprocess
import sys
from contextlib import suppress

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from loss_twins import assert_alike, build, problem, step
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm import ops
from cakd_mm.models.losses import layout
from cakd_mm.models.losses.functional import eager_clusters, eager_single_label

FLOAT_MAX = torch.finfo(torch.float32).max
TWINS = {
    'label': (eager_single_label, ops.single_label, (2.5, 0.7, 3.0)),
    'mask': (eager_clusters, ops.clusters, (2.5, 0.7, 5.0, 3.0)),
}
KINDS = pytest.mark.parametrize('kind', TWINS)
# Whole vectors are 16 long.
WIDTHS = [1, 2, 15, 16, 17, 100]


def assert_twins(kind, *tensors):
    """Compare all results with those in float64; the gradient by its largest."""
    eager, native, weights = TWINS[kind]
    got = native(*tensors, *weights)
    doubles = (x.double() if x.is_floating_point() else x for x in tensors)
    want = eager(*doubles, *weights)
    assert len(got) == len(want)
    for place, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.isfinite().all()
        assert a.dtype == torch.float32
        assert a.shape == b.shape
        scale = b.abs().max().item() if b.numel() else 0.0
        near = 3e-6 * max(scale, 1.0 if place != 1 else 0.0)
        assert_close(a.double(), b, rtol=3e-6, atol=near + 1e-7)


@KINDS
@pytest.mark.parametrize('rows', [0, 1, 9])
@pytest.mark.parametrize('classes', WIDTHS)
def test_the_forms_are_twins(kind, rows, classes):
    assert_twins(kind, *problem(kind, rows, classes))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    kind=st.sampled_from(sorted(TWINS)),
    rows=st.integers(1, 5),
    classes=st.integers(1, 70),
    scale=st.floats(1e-3, 50.0),
    seed=st.integers(0, 99),
)
def test_of_any_shape_and_scale(kind, rows, classes, scale, seed):
    assert_twins(kind, *problem(kind, rows, classes, scale, seed=seed))


@KINDS
@pytest.mark.parametrize('scale', [1e3, 1e6, 1e30])
def test_hostile_scores(kind, scale):
    assert_twins(kind, *problem(kind, scale=scale))


@KINDS
@pytest.mark.parametrize('tau', [0.25, 4.0])
@pytest.mark.parametrize('classes', WIDTHS)
def test_the_largest_floats_stay_finite(kind, tau, classes):
    student, teacher, third = problem(kind, rows=30, classes=classes)
    student, teacher = (x.sign() * FLOAT_MAX for x in (student, teacher))
    weights = TWINS[kind][2]
    value, grad, *_ = TWINS[kind][1](student, teacher, third, tau, *weights[1:])
    assert grad.isfinite().all()
    assert not value.isnan().any()


@KINDS
@pytest.mark.parametrize('classes', WIDTHS[2:])
@pytest.mark.parametrize('net', [0, 1])
def test_a_row_of_the_least_floats(kind, classes, net):
    """Nothing weighs less than what pads a row: the row is uniform all the same."""
    tensors = problem(kind, classes=classes)
    tensors[net][2:] = -FLOAT_MAX
    assert_twins(kind, *tensors)


@KINDS
def test_vanished_probabilities_do_not_meet_large_gaps(kind):
    """Of the teacher's others all but one have none, the student's are far below."""
    student, teacher = torch.full((1, 24), -1e37), torch.full((1, 24), -1e4)
    student[:, :2] = teacher[:, :2] = 0
    third = torch.tensor([0])
    if kind == 'mask':
        third = (torch.arange(24) % 2 == 0).unsqueeze(0)
    assert_twins(kind, student, teacher, third)


@KINDS
@pytest.mark.parametrize('bad', [math.nan, math.inf])
@pytest.mark.parametrize('net', [0, 1])
@pytest.mark.parametrize('place', range(13))
def test_nan_and_inf_are_as_visible_as_in_the_eager_form(kind, bad, net, place):
    eager, native, weights = TWINS[kind]
    tensors = problem(kind)
    own = kind == 'label' and tensors[2][3] == place
    tensors[net][3, place] = bad
    got, want = (f(*tensors, *weights) for f in (native, eager))
    assert got[0].isnan().any() == want[0].isnan().any()
    assert got[0].isnan().any() or (own and bad == math.inf)  # log P is bounded
    assert got[1].isnan().any() == want[1].isnan().any()


@KINDS
def test_any_memory_layout(kind):
    tensors = problem(kind)
    want = TWINS[kind][1](*tensors, *TWINS[kind][2])
    turned = [x.t().contiguous().t() if x.dim() == 2 else x for x in tensors]
    turned[2] = torch.stack((turned[2], turned[2]), -1)[..., 0]
    assert not any(x.is_contiguous() for x in turned)
    assert_close(TWINS[kind][1](*turned, *TWINS[kind][2]), want, rtol=0, atol=0)


THREADS = """
import sys, torch
sys.path[:0] = sys.argv[1:]
import cakd_mm
from loss_twins import problem
from test_losses import TWINS
from cakd_mm import ops
found = {}
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    for kind, (_, native, weights) in TWINS.items():
        tensors = problem(kind, 130, 517)
        results = (*native(*tensors, *weights),)
        if kind == 'mask':
            sums = ops.cluster_sums(tensors[0], tensors[2])
            results += ops.strongest(tensors[0], 200), sums
        for a, b in zip(found.setdefault(kind, results), results, strict=True):
            assert torch.equal(a, b)
"""


def test_the_number_of_threads_changes_no_bit(request):
    """In a process of its own: the threads of this one are not ours to start."""
    here = request.path.parent
    command = [sys.executable, '-W', 'ignore', '-c', THREADS, here, here.parent]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('wrong', [13, -1, 10**12])
def test_labels_that_are_no_classes(wrong):
    student, teacher, labels = problem('label')
    labels[4] = wrong
    with pytest.raises(RuntimeError, match='row 4 has a label out of bounds'):
        ops.single_label(student, teacher, labels, 4.0, 1.0, 1.0)


@KINDS
def test_small_divergences_are_not_swamped_by_rounding(kind):
    """Scores at a high temperature: nearly uniform, divergences of 1e-4."""
    draw = torch.Generator().manual_seed(0)
    students, teachers = torch.rand(2, 200, 1, 64, generator=draw)
    thirds = problem(kind, 200, 64)[2].unsqueeze(1)
    eager, native, weights = TWINS[kind]
    errors = []
    for student, teacher, third in zip(students, teachers, thirds, strict=True):
        arguments = third, 8.0, *weights[1:]
        got = native(student, teacher, *arguments)[0].double()
        want = eager(student.double(), teacher.double(), *arguments)[0]
        errors.append(((got - want) / want).abs().max())
    assert torch.stack(errors).median() < 5e-6


def test_others_at_minus_infinity_stay_visible():
    student, teacher, labels = problem('label')
    for net in (0, 1):
        tensors = [student.clone(), teacher.clone(), labels]
        tensors[net][:] = -math.inf
        tensors[net].scatter_(1, labels.unsqueeze(1), 1.0)
        assert not ops.single_label(*tensors, *TWINS['label'][2])[0].isfinite()


def test_what_would_be_read_as_something_else_is_refused():
    student, teacher, labels = problem('label')
    mask = problem('mask')[2]
    wrong_of_label = [
        (student, teacher, labels.int()),
        (student, teacher, labels[:-1]),
        (student, teacher[:, :-1], labels),
        (student, teacher.double(), labels),
        (student.double(), teacher, labels),
        (student.bfloat16(), teacher, labels),
    ]
    for tensors in wrong_of_label:
        with pytest.raises(ValueError, match='belongs'):
            ops.single_label(*tensors, 4.0, 1.0, 1.0)
    for third in (mask[:, :-1], mask[:-1], mask.float()):
        with pytest.raises(ValueError, match='belongs'):
            ops.clusters(student, teacher, third, 4.0, 1.0, 1.0, 1.0)
        with pytest.raises(ValueError, match='belongs'):
            ops.cluster_sums(student, third)
    with pytest.raises(ValueError, match='float64'):
        ops.strongest(student.double(), 3)


# The strongest


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    rows=st.integers(0, 4),
    elements=st.integers(2, 70),
    share=st.floats(0, 1),
    levels=st.sampled_from([0, 1, 3, 10**6]),
    seed=st.integers(0, 99),
)
def test_the_highest_are_the_strongest(rows, elements, share, levels, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, elements, generator=draw)
    if levels:
        scores = (scores * levels).round() / levels  # with equal ones
    count = min(max(1, round(share * elements)), elements - 1)
    mask = ops.strongest(scores, count)
    assert mask.dtype == torch.bool
    # Sorted stably, equal ones keep their order: the first are taken.
    order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    assert torch.equal(mask, torch.zeros_like(mask).scatter_(-1, order, True))


def test_extreme_scores_are_ranked():
    inf, nan, tiny = math.inf, math.nan, 1e-44
    scores = [-inf, -FLOAT_MAX, -1.0, -tiny, 0.0, tiny, 1.0, FLOAT_MAX, inf, nan]
    shuffled = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    for count in range(1, 10):
        mask = ops.strongest(torch.tensor([scores])[:, shuffled], count)
        assert sorted(shuffled[mask[0]].tolist()) == list(range(10 - count, 10))


def test_a_nan_of_either_sign_is_the_highest():
    nan = torch.tensor(math.nan)
    for value in (nan, nan.copysign(torch.tensor(-1.0))):
        scores = torch.stack((torch.tensor(math.inf), value, torch.tensor(0.0)))
        mask = ops.strongest(scores.unsqueeze(0), 1)
        assert mask.tolist() == [[False, True, False]]


def test_zero_has_no_sign():
    scores = torch.tensor([[-0.0, 0.0, -0.0, 0.0, -1.0]])
    assert ops.strongest(scores, 2).tolist() == [[True, True, False, False, False]]


@pytest.mark.parametrize(('rows', 'elements'), [(0, 3), (1, 1), (9, 33), (70, 700)])
def test_sums_of_clusters(rows, elements):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, elements, generator=draw)
    mask = torch.rand(rows, elements, generator=draw) < 0.3
    want = layout.cluster_sums(x.double(), mask)
    assert_close(ops.cluster_sums(x, mask).double(), want, rtol=1e-5, atol=1e-3)
    assert ops.cluster_sums(torch.full((2, 3), math.nan), mask.new_ones(2, 3)).isnan()[
        0
    ]


# In the losses

NOWHERE = torch.device('meta')


@KINDS
@pytest.mark.parametrize('place', [0, 1, 2])
def test_tensors_of_another_device_never_reach_a_kernel(kind, place, kernels):
    loss, tensors = build(kind, compile=True), list(problem(kind))
    loss._function.function = None  # nothing that torch.compile would compile
    tensors[place] = tensors[place].to(NOWHERE)
    with suppress(RuntimeError):  # of torch, in most cases
        loss(*tensors)
    assert not kernels


class Counted:
    def __init__(self, kernel, called, name):
        self.kernel, self.called, self.name = kernel, called, name

    def __call__(self, *args):
        self.called.append(self.name)
        return self.kernel(*args)


@pytest.fixture
def kernels(monkeypatch):
    """Count which kernels the losses call."""
    called = []
    for name in ('single_label', 'clusters', 'strongest', 'cluster_sums'):
        monkeypatch.setattr(ops, name, Counted(getattr(ops, name), called, name))
    return called


@KINDS
def test_compile_changes_nothing_but_speed(kind, kernels):
    native, eager = build(kind, compile=True, loss_weight=0.3), build(kind)
    eager.loss_weight = 0.3
    for scale in (3.0, 1e3, 1e30):
        tensors = problem(kind, scale=scale)
        assert_alike(step(native, *tensors), step(eager, *tensors), 2e-6)
    assert kernels == 3 * [dict(label='single_label', mask='clusters')[kind]]
    assert 'compile=True' in repr(native)


@pytest.mark.parametrize('gamma', [2.0, 'adaptive'])
@pytest.mark.parametrize('granularity', ['pooled', 'channel', 'spatial', 'flat'])
def test_features(gamma, granularity, kernels):
    draw = torch.Generator().manual_seed(0)
    shape = (9, 16) if granularity == 'pooled' else (5, 16, 3, 3)
    student, teacher = torch.rand(2, *shape, generator=draw)
    settings = dict(type='CAKDFeatureLoss', gamma=gamma, granularity=granularity)
    native, eager = (
        MODELS.build(dict(settings, compile=compile)) for compile in (True, False)
    )
    for _ in range(3):
        got, want = (step(loss, student, teacher) for loss in (native, eager))
        assert_alike(got, want, 1e-5)
    assert kernels == 3 * ['strongest', 'cluster_sums', 'clusters']


def test_labels_are_checked_and_the_loss_can_be_copied():
    loss, tensors = build('label', compile=True), problem('label')
    value = step(loss, *tensors)
    for wrong in (tensors[2] + 13, tensors[2] - 13):
        with pytest.raises(ValueError, match=r'gt_labels holds -?\d+, .*13 classes'):
            loss(*tensors[:2], wrong)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert_close(step(twin, *tensors), value, rtol=0, atol=0)


def test_half_precision_is_computed_in_single(kernels):
    student, teacher, labels = problem('label')
    halves = student.bfloat16(), teacher.bfloat16()
    value = build('label', compile=True)(*halves, labels)
    assert value.dtype == torch.float32
    assert kernels == ['single_label']
    assert_close(value, build('label')(*halves, labels), rtol=2e-6, atol=0)


def test_a_tracing_mode_sees_the_eager_form(kernels):
    from torch._subclasses.fake_tensor import FakeTensorMode

    loss, tensors = build('mask', compile=True), problem('mask')
    loss._function.function = None  # nothing that torch.compile would compile
    with FakeTensorMode() as mode:
        assert loss(*(mode.from_tensor(x) for x in tensors)).shape == ()
    assert not kernels


def test_a_second_derivative_is_refused():
    loss, (student, *others) = build('label', compile=True), problem('label')
    value = loss(student.requires_grad_(), *others)
    (grad,) = torch.autograd.grad(value**2, student, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()
