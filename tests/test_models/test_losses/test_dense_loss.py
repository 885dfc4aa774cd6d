"""DenseLoss: the loss within on the rows of a map, found by loops."""

import inspect
import re

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from mmrazor.registry import MODELS
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from cakd_mm.models.losses.base import DistillLoss
from cakd_mm.models.losses.functional.dense import bilinear, nearest

N, C, H, W = 3, 5, 4, 6
IGNORED = 255
INNER = {
    'KDLoss': {},
    'DecoupledKDLoss': {},
    'NKDLoss': {},
    'CAKDLogitLoss': {},
    'CTKDLoss': {},
    'LDRLDLoss': dict(top_classes=3),
    'SigmoidKDLoss': dict(beta=2.0, gamma=0.5),
    'WTTMLoss': {},
    # Those that cannot be computed part by part.
    'DISTLogitLoss': {},
    'KLDivergence': {},
}
SHARES = dict(bcd=0.2, scd=0.5, wcd=0.3)


def dense(loss='KDLoss', of_loss=None, **settings):
    """A DenseLoss, whose inner loss is a name, a config or a module."""
    if isinstance(loss, str):
        loss = dict(type=loss, **(of_loss or {}))
    made = MODELS.build(dict(type='DenseLoss', loss=loss, **settings)).double()
    if made.needs_epoch:
        made.set_epoch(9)
    return made


@pytest.fixture
def maps():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, N, C, H, W, generator=draw, dtype=torch.float64).unbind()


@pytest.fixture
def labels():
    draw = torch.Generator().manual_seed(1)
    found = torch.randint(C, (N, H, W), generator=draw)
    found[torch.rand(N, H, W, generator=draw) < 0.3] = IGNORED
    return found


def looped(student, teacher, labels, keep=lambda label: label != IGNORED):
    """The rows of all places that count, one after the other."""
    places = [
        (n, h, w) for n in range(N) for h in range(H) for w in range(W)
        if keep(int(labels[n, h, w]))
    ]  # fmt: skip
    ours, theirs = (
        torch.stack([x[n, :, h, w] for n, h, w in places]) for x in (student, teacher)
    )
    return ours, theirs, torch.stack([labels[place] for place in places])


def on_rows(inner, ours, theirs, labels):
    """The value of a loss between rows."""
    fed = dict(preds_S=ours, preds_T=theirs, gt_labels=labels)
    known = inspect.signature(inner.forward).parameters
    return inner(**{name: x for name, x in fed.items() if name in known})


@pytest.mark.parametrize('scores_at_once', [2**22, 17 * C + 2])
@pytest.mark.parametrize('kind', INNER)
def test_it_is_the_loss_on_the_rows_that_count(maps, labels, kind, scores_at_once):
    student, teacher = maps
    loss = dense(kind, INNER[kind], scores_at_once=scores_at_once, loss_weight=0.5)
    inner = MODELS.build(dict(type=kind, **INNER[kind])).double()
    if getattr(inner, 'needs_epoch', False):
        inner.set_epoch(9)
    found = []
    for call in (
        lambda x: loss(x, teacher, labels),
        lambda x: 0.5 * on_rows(inner, *looped(x, teacher, labels)),
    ):
        leaf = student.clone().requires_grad_()
        module = inner if found else loss
        value = call(leaf)
        grads = torch.autograd.grad(value, [leaf, *module.parameters()])
        found.append((value.detach(), *grads, getattr(module, 'terms', {})))
    assert_close(*found, rtol=1e-12, atol=1e-14)
    assert (found[0][1].movedim(1, -1)[labels == IGNORED] == 0).all()


@pytest.mark.parametrize('kind', ['KDLoss', 'CTKDLoss', 'CAKDLogitLoss'])
def test_gradcheck_of_parts(maps, labels, kind):
    student, teacher = (x[:1, :, :2, :3] for x in maps)
    loss = dense(kind, scores_at_once=2 * C)
    labels = labels[:1, :2, :3]
    assert torch.autograd.gradcheck(
        lambda s: loss(s, teacher, labels), student.clone().requires_grad_()
    )


def test_parts_of_trained_losses_have_a_gradient_even_without_a_students(maps):
    loss = dense('CTKDLoss', scores_at_once=25 * C)
    loss(*maps).backward()
    assert loss.loss.theta.grad.abs() > 0


@pytest.mark.parametrize('kind', INNER)
@pytest.mark.parametrize('scores_at_once', [2**22, 25 * C])
def test_without_a_row_the_loss_is_zero(maps, kind, scores_at_once):
    student, teacher = maps
    loss = dense(kind, INNER[kind], scores_at_once=scores_at_once)
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher, torch.full((N, H, W), IGNORED))
    value.backward()
    assert value == 0 and (leaf.grad == 0).all()
    assert all(term == 0 for name, term in loss.terms.items() if name in ('kl', 'bcd'))
    assert all(x.grad is not None for x in loss.parameters())  # which DDP waits for


def test_without_labels_or_ignored_ones_every_place_counts(maps, labels):
    student, teacher = maps
    rows = [x.movedim(1, -1).reshape(-1, C) for x in maps]
    want = MODELS.build(dict(type='KDLoss'))(*rows)
    assert_close(dense()(student, teacher), want)
    assert_close(dense(ignore_index=None)(student, teacher, labels), want)
    valid = labels.where(labels != IGNORED, torch.tensor(2))
    inner = MODELS.build(dict(type='CAKDLogitLoss'))
    assert_close(
        dense('CAKDLogitLoss', ignore_index=None)(student, teacher, valid),
        inner(*rows, valid.flatten()),
    )


@pytest.mark.parametrize('ignored', [0, 2])
def test_another_label_can_be_the_ignored_one(maps, ignored):
    labels = torch.arange(N * H * W).view(N, H, W) % C
    want = on_rows(
        MODELS.build(dict(type='NKDLoss')),
        *looped(*maps, labels, lambda label: label != ignored),
    )
    assert_close(dense('NKDLoss', ignore_index=ignored)(*maps, labels), want)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int32, torch.int64])
def test_label_maps_of_either_layout(maps, labels, dtype):
    want = dense('NKDLoss')(*maps, labels)
    for found in (labels, labels.unsqueeze(1)):
        assert_close(dense('NKDLoss')(*maps, found.to(dtype)), want, rtol=0, atol=0)


# Sizes


@pytest.mark.parametrize('size', [(2, 3), (8, 12), (5, 4)])
@pytest.mark.parametrize('scores_at_once', [2**22, 25 * C])
def test_the_teacher_comes_to_the_size_of_the_student(maps, size, scores_at_once):
    student, _ = maps
    draw = torch.Generator().manual_seed(2)
    teacher = torch.randn(N, C, *size, generator=draw, dtype=torch.float64)
    loss = dense(scores_at_once=scores_at_once)
    resized = F.interpolate(teacher, (H, W), mode='bilinear', align_corners=False)
    assert_close(loss(student, teacher), loss(student, resized))
    leaf = student.clone().requires_grad_()
    loss(leaf, teacher.requires_grad_()).backward()
    assert teacher.grad is None
    # The slope of a place depends on its own scores alone.
    other = student.clone()
    other[:, :, 0, 0] += 1
    changed = other.requires_grad_()
    loss(changed, teacher).backward()
    assert_close(changed.grad[:, :, 1:], leaf.grad[:, :, 1:])


def test_linear_scores_stay_linear_between_their_ends():
    """By hand: the middles of the places of 4 columns, in those of 8."""
    ramp = torch.arange(4.0).view(1, 1, 1, 4)
    got = bilinear(ramp, (1, 8)).flatten().tolist()
    assert got == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
    half = ramp.half()
    assert bilinear(half, (1, 8)).dtype == torch.float32
    assert bilinear(half, (1, 4)) is half


sizes = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(here=st.tuples(sizes, sizes), there=st.tuples(sizes, sizes))
def test_a_label_is_that_of_the_nearest_place(here, there):
    """No other place is nearer to the middle; PyTorch agrees where one is nearest."""
    rows, columns = (torch.arange(n) for n in here)
    labels = (rows[:, None] * 64 + columns)[None, None]
    got = nearest(labels, there)[0, 0]
    for dim, found in ((0, got[:, 0] // 64), (1, got[0] % 64)):
        middles = (torch.arange(there[dim]) + 0.5) * here[dim] / there[dim]
        gaps = (middles[:, None] - (torch.arange(here[dim]) + 0.5)).abs()
        least = gaps.amin(1)
        assert_close(gaps.gather(1, found[:, None])[:, 0], least)
    if all(n % 2 == 0 and (n // m) * m == n for n, m in zip(there, here, strict=True)):
        want = F.interpolate(labels.float(), there, mode='nearest-exact')
        assert torch.equal(got, want[0, 0].long())


def test_labels_of_another_size(maps):
    """Each place of the student takes the label in the middle of 3 x 2 others."""
    draw = torch.Generator().manual_seed(3)
    fine = torch.randint(C, (N, 3 * H, 2 * W), generator=draw)
    want = dense('NKDLoss')(*maps, fine[:, 1::3, 1::2])
    assert_close(dense('NKDLoss')(*maps, fine), want, rtol=0, atol=0)


# Anchors


@pytest.mark.parametrize('per_anchor', [False, True])
@pytest.mark.parametrize('scores_at_once', [2**22, 31])
def test_each_anchor_is_a_row(per_anchor, scores_at_once):
    """Channel a * K + k is class k of anchor a, as in mmdet's heads."""
    anchors, classes = 3, 2
    draw = torch.Generator().manual_seed(4)
    shape = 2, N, anchors * classes, H, W
    student, teacher = torch.randn(shape, generator=draw, dtype=torch.float64).unbind()
    labels = torch.randint(
        classes, (N, anchors if per_anchor else 1, H, W), generator=draw
    )
    labels[0, 0, 0] = IGNORED
    rows = []
    for n in range(N):
        for h in range(H):
            for w in range(W):
                for a in range(anchors):
                    label = labels[n, a if per_anchor else 0, h, w]
                    if label != IGNORED:
                        own = slice(a * classes, (a + 1) * classes)
                        rows.append(
                            (student[n, own, h, w], teacher[n, own, h, w], label)
                        )
    want = MODELS.build(dict(type='CAKDLogitLoss'))(*map(torch.stack, zip(*rows)))  # noqa: B905
    loss = dense('CAKDLogitLoss', num_classes=classes, scores_at_once=scores_at_once)
    assert_close(loss(student, teacher, labels), want)


def test_the_background_of_a_detector_has_no_strong_class(maps):
    """Weight 0 of all but strong classes leaves the places with an object."""
    labels = torch.full((N, H, W), C)
    labels[1, 2, 3] = 4
    loss = dense('SigmoidKDLoss', dict(gamma=0.0))
    student, teacher = (x[1, 4, 2, 3].view(1, 1) for x in maps)
    want = MODELS.build(dict(type='SigmoidKDLoss'))(student, teacher) / (N * H * W)
    assert_close(loss(*maps, labels), want)


# Memory and waits


class Watch(TorchDispatchMode):
    """Notes the largest float tensor that is made, and what makes a host wait."""

    def __init__(self):
        super().__init__()
        self.largest, self.waits = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = str(func)
        self.waits += 'nonzero' in name or '_local_scalar_dense' in name
        is_view = 'view' in name or 'permute' in name or 'detach' in name
        for x in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(x, torch.Tensor) and x.is_floating_point() and not is_view:
                self.largest = max(self.largest, x.numel())
        return out


@pytest.mark.parametrize('labelled', [False, True])
@pytest.mark.parametrize('kind', ['KDLoss', 'SigmoidKDLoss', 'CTKDLoss'])
def test_parts_are_all_that_is_made(maps, labels, kind, labelled):
    """And the gradient, of the size of the student's map."""
    student, teacher = maps
    loss, most = dense(kind, scores_at_once=5 * C), 5 * C
    fed = (labels,) if labelled else ()
    with Watch() as watch:
        value = loss(student.requires_grad_(), teacher, *fed)
    assert watch.largest == most
    saved = set[int]()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.add(x.data_ptr()) or x, lambda x: x
    ):
        loss(student, teacher, *fed)
    kept = {x.data_ptr() for x in (student, teacher, *loss.parameters())}
    assert saved <= kept
    with Watch() as watch:
        value.backward()
    assert watch.largest == student.numel()


def test_the_host_waits_once_and_for_labels_alone(maps, labels):
    student, teacher = maps
    for loss, fed, waits in (
        (dense(), (), 0),
        (dense(ignore_index=None), (labels,), 0),
        (dense(), (labels,), 1),
        (dense(scores_at_once=25 * C), (labels,), 1),
    ):
        with Watch() as watch:
            loss(student, teacher, *fed)
        assert watch.waits == waits


class Counting(DistillLoss):
    """A loss that notes the lengths of what it gets."""

    def __init__(self, in_parts):
        super().__init__()
        self.in_parts, self.lengths = in_parts, []

    @property
    def mean_of_rows(self):
        return self.in_parts

    def forward(self, preds_S, preds_T):
        self.lengths.append(len(preds_S))
        self.seen = self.probing, self.queue, self.indices
        return (preds_S - preds_T).square().sum(1).mean()


def test_only_a_mean_of_rows_is_computed_in_parts(maps):
    student, teacher = maps
    total = N * H * W
    for in_parts, forward, both in (
        (False, [total], [total]),
        (True, [50, 22], [50, 22, 50, 22]),
    ):
        inner = Counting(in_parts)
        value = dense(inner, scores_at_once=50 * C + 3)(
            student.requires_grad_(), teacher
        )
        assert inner.lengths == forward
        value.backward()
        assert inner.lengths == both
    for cfg, in_parts in (
        (dict(type='CAKDLogitLoss'), True),
        (dict(type='CAKDLogitLoss', strong_classes=2), True),
        (dict(type='CAKDLogitLoss', strong_classes=2, gradient_shares=SHARES), False),
        (
            dict(
                type='CAKDLogitLoss', strong_classes=2, scorer=dict(type='RandomScorer')
            ),
            False,
        ),
        (dict(type='DISTLogitLoss'), False),
        (dict(type='MLKDLoss'), False),
    ):
        assert MODELS.build(cfg).mean_of_rows is in_parts


@pytest.mark.parametrize('in_parts', [False, True])
def test_the_teacher_gets_no_gradient_of_a_loss_that_gives_it_one(maps, in_parts):
    student, teacher = (x.clone().requires_grad_() for x in maps)
    dense(Counting(in_parts), scores_at_once=50 * C)(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_parts_log_what_the_forward_pass_saw(maps):
    student, teacher = maps
    loss = dense(scores_at_once=25 * C)
    value = loss(student.requires_grad_(), teacher)
    before = loss.terms
    value.backward(retain_graph=True)
    value.backward()
    assert_close(loss.terms, before, rtol=0, atol=0)
    assert all(x.dim() == 0 for x in loss.rows.values())


def test_autocast_is_off_in_both_passes(maps):
    """Otherwise the gradient would be that of another precision."""

    class Product(Counting):
        def forward(self, preds_S, preds_T):
            self.lengths.append((preds_S @ preds_T.T).dtype)
            return super().forward(preds_S, preds_T)

    inner = Product(True)
    student, teacher = (x.float() for x in maps)
    with torch.autocast('cpu', torch.bfloat16):
        dense(inner, scores_at_once=50 * C)(
            student.requires_grad_(), teacher
        ).backward()
    assert inner.lengths.count(torch.float32) == 4


def test_parts_have_no_second_derivative(maps):
    student, teacher = maps
    value = dense(scores_at_once=25 * C)(student.requires_grad_(), teacher)
    with pytest.raises(RuntimeError, match='cannot be differentiated once more'):
        torch.autograd.grad(value, student, create_graph=True)


# What the loss within declares


def test_it_hands_on_what_it_is_told(maps):
    inner = Counting(False)
    loss = dense(inner)
    loss.probing, loss.queue, loss.indices = False, [], torch.arange(N)
    loss(*maps)
    assert inner.seen == (False, loss.queue, None)  # a row has no index


def test_it_answers_for_the_loss_within():
    loss = dense('CTKDLoss')
    assert loss.needs_epoch and loss.loss.epoch == 9
    assert loss.term_labels == loss.loss.term_labels
    assert list(loss.state_dict()) == ['loss.theta']
    assert not (loss.needs_dataset or loss.one_class or loss.uses_indices)
    assert loss.any_size and not loss.half_precision
    loss.inner[0].warning = lambda terms: f'temperature {terms["temperature"]}'
    assert loss.warning(dict(temperature=3.0)) == 'temperature 3.0'
    random = dict(scorer=dict(type='RandomScorer'), strong_classes=2)
    assert not dense('CAKDLogitLoss', random).uses_indices
    cfg = dict(type='DenseLoss', loss=dict(type='CAKDLogitLoss', strong_classes=3))
    assert '2 of the teacher' in type(loss).describe_clusters(cfg)
    cfg = dict(type='DenseLoss', loss=dict(type='KLDivergence'))
    assert type(loss).describe_clusters(cfg) == ''


def test_the_norm_of_a_loss_within_gets_its_rows(maps, labels):
    inner = dict(type='FeatureKLLoss', standardize=True, channels=C)
    loss = dense(inner).train()
    fed = dict(preds_S=maps[0], preds_T=maps[1], gt_labels=labels)
    [(norm, rows)] = loss.norm_batches(fed)
    assert norm is loss.loss.norm
    assert_close(rows, looped(*maps, labels)[1])
    assert dense().norm_batches(fed) == []


# Mistakes


MAP = torch.randn(N, C, H, W)
LABELS = torch.zeros(N, H, W, dtype=torch.int64)


@pytest.mark.parametrize(
    ('cfg', 'error', 'text'),
    [
        (dict(loss=None), TypeError, r'`loss` = None.*Write loss=dict\(type'),
        (dict(loss=dict(tau=1.0)), TypeError, r"`loss\.type` = None.*beside \['tau'\]"),
        (dict(loss=nn.ReLU()), ValueError, r"`loss` = 'ReLU'.*between preds_S and"),
        (
            dict(loss=dict(type='WKDLogitLoss')),
            ValueError,
            "`loss` = 'WKDLogitLoss': It needs head_weight",
        ),
        (
            dict(loss=dict(type='OFDFeatureLoss')),
            ValueError,
            'needs bn_weights and bn_biases',
        ),
        (dict(loss=dict(type='MLKDLoss')), ValueError, 'compares 2 views'),
        (dict(ignore_index=1.5), ValueError, '`ignore_index` = 1.5.*an integer'),
        (dict(ignore_index=True), ValueError, '`ignore_index` = True'),
        (dict(num_classes=0), ValueError, '`num_classes` = 0'),
        (dict(scores_at_once=0), ValueError, '`scores_at_once` = 0'),
        (dict(loss_weight=-1.0), ValueError, 'loss_weight.*config of DenseLoss'),
    ],
)
def test_a_wrong_setting_is_named(cfg, error, text):
    with pytest.raises(error, match=text):
        MODELS.build(dict(type='DenseLoss', **{'loss': dict(type='KDLoss'), **cfg}))


def test_a_loss_that_knows_images_by_their_place_is_refused():
    sizes = dict(channels_S=C, channels_T=C, feat_dim=4, negatives=2)

    class Bank(type(MODELS.build(dict(type='CRDBankLoss', **sizes)))):
        def forward(self, preds_S, preds_T):
            return preds_S.sum()

    with pytest.raises(
        ValueError, match=r"`loss` = 'Bank'.*places in the training set"
    ):
        dense(Bank(**sizes))


@pytest.mark.parametrize(
    ('settings', 'fed', 'error', 'text'),
    [
        ({}, (MAP[0], MAP), ValueError, r'preds_S has shape \(5, 4, 6\), expected'),
        ({}, (MAP, MAP[:, :, 0]), ValueError, r'preds_T has shape \(3, 5, 6\)'),
        ({}, ([MAP], MAP), TypeError, 'preds_S must be a float tensor'),
        ({}, (MAP, MAP[:, :4]), ValueError, r'preds_T.*\(3, 4, 4, 6\).*num_classes'),
        ({}, (MAP, MAP[:2]), ValueError, r'preds_T.*\(2, 5, 4, 6\).*same images'),
        (
            dict(num_classes=2),
            (MAP, MAP),
            ValueError,
            '`num_classes` = 2.*5 channels, which is no multiple',
        ),
        (
            dict(loss='CAKDLogitLoss'),
            (MAP, MAP),
            ValueError,
            'gt_labels is missing, and CAKDLogitLoss needs.*gt_map',
        ),
        ({}, (MAP, MAP, LABELS.float()), TypeError, 'gt_labels.*integer.*float32'),
        ({}, (MAP, MAP, LABELS > 0), TypeError, 'gt_labels.*integer.*bool'),
        ({}, (MAP, MAP, [LABELS]), TypeError, 'gt_labels.*integer.*list'),
        ({}, (MAP, MAP, LABELS[0]), ValueError, r'gt_labels has shape \(4, 6\)'),
        ({}, (MAP, MAP, LABELS[:2]), ValueError, r'gt_labels has shape \(2, 4, 6\)'),
        ({}, (MAP, MAP, LABELS[:, :0]), ValueError, r'gt_labels has shape \(3, 0, 6\)'),
        (
            dict(num_classes=1),
            (MAP, MAP, LABELS[:, None].expand(-1, 3, -1, -1)),
            ValueError,
            r'gt_labels has shape \(3, 3, 4, 6\).*or \(N, 5, h, w\)',
        ),
        (
            dict(loss='NKDLoss'),
            (MAP, MAP, LABELS + C),
            ValueError,
            'gt_labels holds 5, but there are 5 classes',
        ),
        (
            dict(loss='SigmoidKDLoss'),
            (MAP, MAP, LABELS + C + 1),
            ValueError,
            '`gt_labels` = 6.*5 is the background',
        ),
    ],
)
def test_a_wrong_input_is_named(settings, fed, error, text):
    with pytest.raises(error, match=re.compile(text, re.DOTALL)):
        dense(**settings)(*fed)
