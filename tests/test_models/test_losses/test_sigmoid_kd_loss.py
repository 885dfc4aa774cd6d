"""SigmoidKDLoss and HardLabelLoss: slow numbers, shifts, extreme logits."""

import math

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses.functional import binary_kl

N, C = 5, 4


def build(kind='SigmoidKDLoss', **config):
    return MODELS.build(dict(type=kind, **config))


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, N, C, generator=draw, dtype=torch.float64)).unbind()


def slow(student: float, teacher: float, tau: float) -> float:
    p, q = (1 / (1 + math.exp(-z / tau)) for z in (teacher, student))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0])
def test_against_the_slow_reference(logits, tau):
    student, teacher = logits
    want = torch.tensor(
        [
            [slow(s, t, tau) for s, t in zip(*rows, strict=True)]
            for rows in zip(student.tolist(), teacher.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )
    assert_close(binary_kl(student, teacher, tau), want)
    loss = build(tau=tau, loss_weight=0.3)
    assert_close(loss(student, teacher), 0.3 * tau**2 * want.sum(1).mean())
    present = teacher > 0
    for name, part in (('present', present), ('absent', ~present)):
        assert_close(loss.terms[name], tau**2 * (want * part).sum(1).mean())


# Images without a class, with one and with several.
MARKED = torch.tensor(
    [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]
)


@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.float32])
def test_the_binary_form_of_cakd_weights_two_clusters(logits, dtype):
    """The divergence falls apart into both sums, and nothing is left between them."""
    student, teacher = logits
    marked = MARKED.to(dtype)
    strong = weak = 0.0
    for ours, theirs, row in zip(*(x.tolist() for x in (*logits, MARKED)), strict=True):
        for s, t, is_strong in zip(ours, theirs, row, strict=True):
            kl = 2.5**2 * slow(s, t, 2.5) / N
            strong, weak = strong + is_strong * kl, weak + (not is_strong) * kl
    loss = build(tau=2.5, beta=3.0, gamma=0.25, loss_weight=0.5)
    value = loss(student, teacher, marked)
    assert float(value) == pytest.approx(0.5 * (3 * strong + 0.25 * weak))
    assert {k: float(x) for k, x in loss.terms.items()} == pytest.approx(
        dict(present=strong, absent=weak)
    )
    whole = build(tau=2.5)
    assert_close(whole(student, teacher, marked), whole(student, teacher))
    assert float(whole(student, teacher)) == pytest.approx(strong + weak)


def test_without_labels_the_teacher_says_what_is_strong(logits):
    student, teacher = logits
    seen = (teacher.sigmoid() > 0.5).long()
    loss = build(beta=0.3, gamma=4.0)
    assert_close(loss(student, teacher), loss(student, teacher, seen))


def test_class_indices_and_the_background(logits):
    student, teacher = logits
    labels = torch.tensor([3, C, 0, C, 1])  # C is the background
    rows = torch.zeros(N, C)
    rows[0, 3] = rows[2, 0] = rows[4, 1] = 1
    loss = build(beta=0.3, gamma=4.0)
    want = loss(student, teacher, rows)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert_close(loss(student, teacher, labels.to(dtype)), want, rtol=0, atol=0)
    only = build(beta=1.0, gamma=0.0)
    leaf = student.clone().requires_grad_()
    only(leaf, teacher, labels).backward()
    assert torch.equal(leaf.grad != 0, rows > 0)


@pytest.mark.parametrize(
    ('labels', 'error', 'text'),
    [
        (torch.full((N,), C + 1), ValueError, '`gt_labels` = 5: .*4 is the background'),
        (torch.full((N,), -1), ValueError, '`gt_labels` = -1'),
        (torch.zeros(N), TypeError, 'integer class indices'),
        (torch.zeros(N - 1).long(), ValueError, 'one class index per sample'),
        (torch.zeros(N, C + 1), ValueError, r'\(5, 5\) for logits of shape \(5, 4\)'),
    ],
)
def test_labels_that_are_no_classes_are_named(logits, labels, error, text):
    with pytest.raises(error, match=text):
        build()(*logits, labels)


def test_it_is_torchs_cross_entropy_without_the_teachers_entropy(logits):
    student, teacher = logits
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    target = teacher.sigmoid()
    want = bce(student, target, reduction='none') - bce(
        teacher, target, reduction='none'
    )
    assert_close(binary_kl(student, teacher), want)


def test_it_sees_a_shift_that_a_softmax_does_not(logits):
    teacher = logits[1]
    shifted = (teacher + 2).requires_grad_()
    assert build('KLDivergence', tau=1.0)(shifted, teacher).abs() < 1e-12
    build()(shifted, teacher).backward()
    assert (shifted.grad > 0).all()  # all of them have to come down


def test_gradcheck(logits):
    student, teacher = logits
    assert torch.autograd.gradcheck(
        lambda s: binary_kl(s, teacher, 1.7), student.requires_grad_()
    )


def test_sure_classes_are_as_exact_as_those_that_are_surely_absent():
    teacher = torch.tensor([[-10.0, 10.0]])
    student = teacher + torch.tensor([[0.25, -0.25]])
    want = slow(-9.75, -10.0, 1.0)
    assert binary_kl(student, teacher)[0].tolist() == pytest.approx(
        [want] * 2, rel=1e-4
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('size', [1.0, 30.0, 1e4, 1e12])
def test_small_divergences_are_not_lost(size, dtype):
    """Relative to float64 of the difference: p (1 - p) d^2 / 2 for a small d."""
    teacher = torch.tensor([[size, -size, 0.0]], dtype=dtype)
    assert (binary_kl(teacher, teacher) == 0).all()
    near = binary_kl(teacher + torch.tensor([[0.0, 0.0, 0.01]]).to(dtype), teacher)
    assert_close(
        near[0, 2].double(), torch.tensor(0.01**2 / 8).double(), rtol=1e-2, atol=0
    )
    far = binary_kl(-teacher, teacher)
    assert far.isfinite().all() and far.min() >= 0
    if size >= 30:
        assert_close(far[0, :2], torch.full((2,), size, dtype=dtype))


def test_hard_labels_by_hand():
    student = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    teacher = torch.tensor([[5.0, 9.0], [-2.0, -1.0]])
    loss = build('HardLabelLoss', loss_weight=2.0)
    # The teacher says class 1 twice; the student gives it 3/4 and 1/4.
    want = -(math.log(3 / 4) + math.log(1 / 4)) / 2
    assert_close(loss(student, teacher), torch.tensor(2 * want))
    assert_close(loss.terms['entropy'], torch.tensor(want))
    assert loss.terms['agreement'] == 0.5
