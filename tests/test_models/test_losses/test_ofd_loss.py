"""OFDFeatureLoss: its margins by numeric integration, its distance by loops."""

import math

import goldens
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses.functional.ofd import margin_of, partial_l2

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)


def build(**options):
    return MODELS.build(dict(type='OFDFeatureLoss', **options))


def numbers(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def margins(weights, biases):
    return margin_of(torch.tensor(weights).double(), torch.tensor(biases).double())


# Stored numbers


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('OFD-margin', group='features'))
def test_goldens_of_margins(entry, dtype):
    golden = goldens.load(entry)
    found = margin_of(golden['bn_weight'].to(dtype), golden['bn_bias'].to(dtype))
    assert found.dtype == dtype
    rtol = entry['tolerance'][str(dtype).removeprefix('torch.')]['rtol']
    assert_close(found.double(), golden['margin'], rtol=rtol, atol=0)


def close_gradient(entry, grad, expected):
    tolerance = entry['tolerance'][str(grad.dtype).removeprefix('torch.')]
    expected = expected.double()
    atol = tolerance['grad_rtol_of_max'] * expected.abs().max().item()
    assert_close(grad.double(), expected, rtol=0, atol=atol)


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('OFD-feat', group='features'))
def test_goldens_of_one_level(entry, dtype):
    golden = goldens.load(entry)
    student, teacher, margin = (
        golden[name].to(dtype) for name in ('student', 'teacher', 'margin')
    )
    student.requires_grad_()
    teacher.requires_grad_()
    value = partial_l2(student, teacher, margin)
    value.backward()
    rtol = entry['tolerance'][str(dtype).removeprefix('torch.')]['loss_rtol']
    assert_close(value.detach().double(), golden['loss'], rtol=rtol, atol=0)
    close_gradient(entry, student.grad, golden['grad_student'])
    assert teacher.grad is None


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('OFD', group='features'))
def test_goldens_with_connectors(entry, dtype):
    golden = goldens.load(entry)
    student, teacher, adapted, norms, connectors = [], [], [], ([], []), []
    for level in range(3):
        x = golden[f'student_feat_{level}'].to(dtype).requires_grad_()
        t = golden[f'teacher_feat_{level}'].to(dtype).requires_grad_()
        config = dict(
            type='MapConnector',
            in_channels=x.shape[1],
            out_channels=t.shape[1],
            norm_cfg=dict(type='BN'),
        )
        connector = MODELS.build(config).to(dtype)
        start = f'w.connectors.{level}.'
        own = ('conv.weight', *(f'bn.{k}' for k in ('weight', 'bias')))
        own += ('bn.running_mean', 'bn.running_var')
        names = ('0.weight', '1.weight', '1.bias', '1.running_mean', '1.running_var')
        state = {
            f'conv_module.{a}': golden[start + b]
            for a, b in zip(own, names, strict=True)
        }
        state['conv_module.bn.num_batches_tracked'] = torch.tensor(0)
        connector.load_state_dict(state)
        student.append(x)
        teacher.append(t)
        adapted.append(connector(x))
        connectors.append(connector)
        for values, kind in zip(norms, ('weight', 'bias'), strict=True):
            values.append(golden[f'bn_{kind}_{level}'].to(dtype).requires_grad_())
        margin = margin_of(*(values[-1] for values in norms))
        assert_close(margin.float(), golden[f'margin_{level}'], rtol=1e-5, atol=1e-7)
    value = build(loss_weight=1.0)(adapted, teacher, *norms)
    value.backward()
    # The original's margins are rounded to float32.
    rtol = max(entry['tolerance'][str(dtype).removeprefix('torch.')]['loss_rtol'], 1e-8)
    assert_close(value.detach().double(), golden['loss'], rtol=rtol, atol=0)
    assert all(t.grad is None for t in (*teacher, *norms[0], *norms[1]))
    for level, connector in enumerate(connectors):
        close_gradient(entry, student[level].grad, golden[f'grad_student_feat_{level}'])
        grads = {name: p.grad for name, p in connector.named_parameters()}
        for own, name in (
            *(('conv.weight', '0.weight'), ('bn.weight', '1.weight')),
            ('bn.bias', '1.bias'),
        ):
            stored = golden[f'gw.connectors.{level}.{name}']
            close_gradient(entry, grads[f'conv_module.{own}'], stored)
    adapted = [x.detach() for x in adapted]
    weighted = build()(adapted, teacher, *norms).double()
    assert_close(weighted, golden['loss_weighted'], rtol=rtol, atol=0)


# Margins


def by_integration(weight, bias, steps=200_000):
    """The mean of the negative part of a normal density."""
    deviation = abs(weight)
    x = torch.linspace(bias - 12 * deviation, 0, steps, dtype=torch.float64)
    density = (-((x - bias) / deviation).square() / 2).exp()
    return (torch.trapezoid(x * density, x) / torch.trapezoid(density, x)).item()


@pytest.mark.parametrize(
    ('weight', 'bias'),
    [(1.0, 0.0), (-1.0, 0.5), (0.5, -2.0), (2.0, 3.0), (1.0, 3.0), (0.01, -0.02)],
)
def test_the_mean_of_what_is_negative(weight, bias):
    [found] = margins([weight], [bias]).tolist()
    assert found == pytest.approx(by_integration(weight, bias), rel=1e-6)


def test_a_channel_that_is_hardly_ever_negative():
    """P(x < 0) = 0.001 is at m / s = 3.0902."""
    found = margins([1.0, 2.0, 1.0, 1.0], [3.0915, 100.0, 1e30, 3.09])
    expected = torch.tensor([-3.0, -6.0, -3.0, by_integration(1.0, 3.09)])
    assert_close(found, expected.double())


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16])
def test_a_weight_of_zero_is_the_limit(dtype):
    bias = torch.tensor([-2.0, 0.0, 2.0, -1e-3], dtype=dtype)
    expected = torch.tensor([-2.0, 0.0, 0.0, -1e-3], dtype=dtype)
    assert torch.equal(margin_of(torch.zeros(4, dtype=dtype), bias), expected)
    assert torch.equal(margin_of(-torch.zeros(4, dtype=dtype), bias), expected)
    if dtype != torch.float16:
        near = margin_of(torch.full((4,), 1e-30, dtype=dtype), bias)
        assert_close(near, expected, rtol=1e-6, atol=1e-25)


@settings(max_examples=60, deadline=None)
@given(
    weight=st.floats(-(2.0**99), 2.0**99, width=32),
    bias=st.floats(-(2.0**99), 2.0**99, width=32),
)
def test_properties_of_margins(weight, bias):
    found = margin_of(torch.tensor([weight]), torch.tensor([bias]))
    assert found.isfinite().all()
    assert found <= 0
    # Below the mean of all values, at most 4 deviations of them.
    assert found.item() <= min(bias, 0.0) * (1 - 1e-6)
    lowest = min(bias, 0.0) - 4 * abs(weight)
    assert found.item() >= lowest * (1 + 1e-5) - 1e-37
    mirrored = margin_of(torch.tensor([-weight]), torch.tensor([bias]))
    assert torch.equal(found, mirrored)


def test_margins_have_no_gradient():
    weight, bias = (torch.ones(3, requires_grad=True) for _ in range(2))
    assert not margin_of(weight, bias).requires_grad


# The distance


def element(s, t, m):
    if t > 0:
        return (s - t) ** 2
    if t > m:
        return (s - t) ** 2 if s > t else 0.0
    return (s - m) ** 2 if s > m else 0.0


def by_loops(student, teacher, margin):
    total = 0.0
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, student.shape)).tolist():
        s, t = student[n, c, y, x].item(), teacher[n, c, y, x].item()
        total += element(s, t, margin[c].item())
    return total / len(student)


def test_the_distance_by_loops():
    student, teacher = numbers(3, 4, 2, 3), numbers(3, 4, 2, 3, seed=1)
    margin = torch.tensor([-0.5, -0.1, 0.0, -3.0]).double()
    found = partial_l2(student, teacher, margin)
    assert found.item() == pytest.approx(by_loops(student, teacher, margin))


@pytest.mark.parametrize(
    ('s', 't', 'm', 'expected'),
    [
        *((3.0, 1.0, -1.0, 4.0), (-3.0, 1.0, -1.0, 16.0)),
        *((0.5, -0.5, -1.0, 1.0), (-0.7, -0.5, -1.0, 0.0), (-0.5, -0.5, -1.0, 0.0)),
        *((0.0, -2.0, -1.0, 1.0), (-1.5, -2.0, -1.0, 0.0), (-1.0, -2.0, -1.0, 0.0)),
        *((-0.5, 0.0, -1.0, 0.0), (0.5, 0.0, -1.0, 0.25)),
        *((0.5, -1.0, -1.0, 2.25), (-2.0, -1.0, -1.0, 0.0)),
    ],
)
def test_every_case_of_an_element(s, t, m, expected):
    one = [torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (s, t)]
    assert element(s, t, m) == expected
    assert partial_l2(*one, torch.tensor([m])).item() == pytest.approx(expected)


# The module


def levels(samples=3, seed=0):
    shapes = ((2, 8), (3, 4), (4, 2))
    return [numbers(samples, c, h, h, seed=seed + c) for c, h in shapes]


def norms():
    return [
        [sign * numbers(c, seed=seed).abs() for c in (2, 3, 4)]
        for seed, sign in ((8, 1), (9, -1))
    ]


def test_levels_weigh_half_of_the_next():
    student, teacher = levels(), levels(seed=10)
    parts = [
        partial_l2(s, t, margin_of(w, b))
        for s, t, w, b in zip(student, teacher, *norms(), strict=True)
    ]
    loss = build()
    value = loss(student, teacher, *norms())
    assert_close(value, 1e-3 * (parts[0] / 4 + parts[1] / 2 + parts[2]))
    assert_close(list(loss.terms.values()), parts)
    assert list(loss.terms) == ['level_1', 'level_2', 'level_3']


def test_a_larger_teacher_is_averaged():
    student, teacher = levels(), levels(seed=10)
    larger = [t.repeat_interleave(2, 2).repeat_interleave(2, 3) for t in teacher]
    noise = numbers(*larger[0].shape)
    noise -= torch.nn.functional.interpolate(
        torch.nn.functional.avg_pool2d(noise, 2), scale_factor=2
    )
    larger[0] = larger[0] + noise
    found = build()(student, larger, *norms())
    assert_close(found, build()(student, teacher, *norms()))


def test_nothing_is_kept_in_a_checkpoint():
    """The margins are those of the teacher that is there."""
    loss = build()
    weights, biases = norms()
    first = loss(levels(), levels(seed=10), weights, biases)
    assert not loss.state_dict()
    deeper = [b - 1 for b in biases]
    assert loss(levels(), levels(seed=10), weights, deeper) != first
    assert loss(levels(), levels(seed=10), weights, biases) == first


def test_wrong_arguments():
    student, teacher, (weights, biases) = levels(), levels(seed=10), norms()
    loss = build()
    with pytest.raises(TypeError, match='preds_S must be a list'):
        loss(student[0], teacher, weights, biases)
    with pytest.raises(ValueError, match=r'preds_S\[0\].*out_channels are read'):
        loss(student[::-1], teacher, weights, biases)
    with pytest.raises(ValueError, match='bn_weights must be a list of 3.*got 2'):
        loss(student, teacher, weights[1:], biases)
    with pytest.raises(ValueError, match='bn_biases must be a list of 3.*got Tensor'):
        loss(student, teacher, weights, biases[0])
    with pytest.raises(ValueError, match=r'margin \(4,\).*\(C,\)'):
        loss(student, teacher, weights[::-1], biases[::-1])
    with pytest.raises(ValueError, match=r'bn_weight has shape \(2,\).*\(3,\)'):
        loss(student, teacher, weights, biases[1:] + biases[:1])
    with pytest.raises(ValueError, match=r'preds_S has shape \(3, 2, 8, 8\)'):
        partial_l2(student[0], teacher[1], torch.zeros(3))
    with pytest.raises(ValueError, match=r'\(1, 1\)'):
        margin_of(torch.ones(1, 1), torch.ones(1, 1))
    assert math.isfinite(loss(student, teacher, weights, biases))
