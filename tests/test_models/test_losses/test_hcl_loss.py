"""HCLLoss against stored numbers and loops over blocks."""

import goldens
import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses.functional.hcl import context_of_levels


def hierarchical_context(preds_S, preds_T):
    return sum(context_of_levels(preds_S, preds_T))


BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)


def build(**options):
    return MODELS.build(dict(type='HCLLoss', **options))


def maps(*shapes, seed=0, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    return [
        scale * torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in shapes
    ]


def pyramid(seed=0, samples=3):
    shapes = [(samples, 2, 8, 8), (samples, 3, 4, 4), (samples, 4, 1, 1)]
    return maps(*shapes, seed=seed)


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('ReviewKD-HCL', group='features'))
def test_goldens(entry, dtype):
    golden = goldens.load(entry)
    tolerance = entry['tolerance'][str(dtype).removeprefix('torch.')]
    count = int(golden['n_maps'])
    student = [golden[f'student_{i}'].to(dtype).requires_grad_() for i in range(count)]
    teacher = [golden[f'teacher_{i}'].to(dtype).requires_grad_() for i in range(count)]
    value = build()(student, teacher)
    value.backward()
    assert value.dtype == dtype
    assert_close(
        value.detach().double(), golden['loss'], rtol=tolerance['loss_rtol'], atol=0
    )
    for i in range(count):
        expected = golden[f'grad_student_{i}'].double()
        atol = tolerance['grad_rtol_of_max'] * expected.abs().max().item()
        assert_close(student[i].grad.double(), expected, rtol=0, atol=atol)
        assert teacher[i].grad is None


def blocks(feature, size):
    """Means of equal blocks."""
    step = feature.shape[2] // size
    rows = [
        [
            feature[:, :, step * y : step * (y + 1), step * x : step * (x + 1)].mean(
                (2, 3)
            )
            for x in range(size)
        ]
        for y in range(size)
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def mse(a, b):
    return sum(((x - y) ** 2).mean() for x, y in zip(a, b, strict=True)) / len(a)


@pytest.mark.parametrize(
    ('height', 'sizes'), [(8, (4, 2, 1)), (4, (2, 1)), (2, (1,)), (1, ())]
)
def test_one_level_by_loops(height, sizes):
    (s,), (t,) = maps((3, 2, height, height)), maps((3, 2, height, height), seed=1)
    parts = [(1.0, mse(s, t))]
    for k, size in enumerate(sizes, 1):
        parts.append((0.5**k, mse(blocks(s, size), blocks(t, size))))
    expected = sum(w * v for w, v in parts) / sum(w for w, _ in parts)
    assert_close(hierarchical_context([s], [t]), expected)


def test_only_the_height_decides():
    (s,), (t,) = maps((3, 2, 2, 8)), maps((3, 2, 2, 8), seed=1)
    gap = s - t
    expected = (gap.square().mean() + gap.mean((2, 3)).square().mean() / 2) / 1.5
    assert_close(hierarchical_context([s], [t]), expected)


def test_levels_add_up_and_are_logged():
    student, teacher = pyramid(), pyramid(1)
    each = [hierarchical_context([s], [t]) for s, t in zip(student, teacher)]  # noqa: B905
    assert len({round(value.item(), 6) for value in each}) == 3
    loss = build()
    assert_close(loss(student, teacher), sum(each))
    assert list(loss.terms) == ['level_1', 'level_2', 'level_3']
    assert_close(list(loss.terms.values()), each)


def test_vectors_count_as_maps_of_one_pixel():
    student, teacher = pyramid(), pyramid(1)
    expected = context_of_levels(student, teacher)
    student[2], teacher[2] = student[2].flatten(1), teacher[2].flatten(1)
    assert_close(context_of_levels(student, teacher), expected)
    student[2] = student[2][:, :, None, None]
    assert_close(context_of_levels(tuple(student), teacher), expected)


ONE = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ('student', 'teacher', 'error', 'match'),
    [
        (ONE, [ONE], TypeError, r'preds_S must be a list.*Tensor.*recorder=\['),
        ([ONE], [ONE, ONE], ValueError, 'preds_S has 1 maps and preds_T 2'),
        ([], [], ValueError, 'at least one'),
        ([ONE, ONE], [ONE, ONE.long()], TypeError, r'preds_T\[1\].*int64'),
        ([ONE[0]], [ONE], ValueError, r'preds_S\[0\] has shape \(3, 4, 4\)'),
        ([ONE, ONE], [ONE, ONE[:, :2]], ValueError, r'preds_S\[1\].*out_channels'),
        ([ONE], [ONE[:, :, :2]], ValueError, r'\(2, 3, 4, 4\).*out_sizes'),
    ],
)
def test_wrong_lists(student, teacher, error, match):
    with pytest.raises(error, match=match):
        build()(student, teacher)
