"""CTKDLoss: its values, the reversed gradient of its temperature, its schedule."""

import json
import math

import goldens
import numpy as np
import pytest
import torch
from mmrazor.registry import MODELS
from torch import nn
from torch.testing import assert_close

from cakd_mm.models.losses.functional.ctkd import (
    reversal_factor,
    reverse_gradient,
    tempered_kl,
)

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
CASES = [c for c in goldens.cases('CTKD') if 'schedule' not in c.id]


def build(epoch=0, **options):
    loss = MODELS.build(dict(type='CTKDLoss', **options))
    if epoch is not None:
        loss.set_epoch(epoch)
    return loss


def logits(rows=6, classes=5, seed=0, scale=3.0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, rows, classes, generator=draw)).to(dtype).unbind()


def by_hand(preds_S, preds_T, temperatures):
    """Row by row, in plain Python."""
    rows = []
    for s, t, T in zip(
        preds_S.tolist(), preds_T.tolist(), temperatures.tolist(), strict=True
    ):
        p, q = ([math.exp(x / T) for x in z] for z in (t, s))
        p, q = ([x / sum(z) for x in z] for z in (p, q))
        rows.append(T * T * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return sum(rows) / len(rows)


def of_theta(theta, t_start=1.0, t_end=20.0):
    return t_start + t_end / (1 + math.exp(-theta))


# Stored numbers


@BOTH
@pytest.mark.parametrize('entry', CASES)
def test_goldens(entry, dtype):
    golden, hp = goldens.load(entry), entry['hparams']
    loss = build(
        epoch=hp['epoch'] - 1,
        init=hp['global_T'],
        t_start=hp['t_start'],
        t_end=hp['t_end'],
        lambda_max=hp['decay_max'],
        lambda_min=hp['decay_min'],
        epochs=hp['decay_loops'],
    ).to(dtype)
    leaf = golden['logits_student'].to(dtype).requires_grad_()
    teacher = golden['logits_teacher'].to(dtype).requires_grad_()
    value = loss(leaf, teacher)
    value.backward()
    assert value.dtype == dtype
    assert teacher.grad is None
    goldens.assert_matches(entry, value.detach(), leaf.grad)
    # Not even in float32 is anything lost beyond the rounding of the result.
    tiny = dict(rtol=1e-9 if dtype == torch.float64 else 3e-7, atol=0.0)
    assert_close(value.detach().double(), golden['loss'], **tiny)
    assert_close(loss.theta.grad.double(), golden['grad_global_T'], **tiny)
    assert_close(loss.terms['temperature'], golden['temperature'], rtol=1e-12, atol=0)
    assert loss.reversal == pytest.approx(golden['lambda_'].item(), rel=1e-12)


@pytest.mark.skipif(not goldens.FOLDER.is_dir(), reason='no reference numbers')
def test_the_stored_schedule():
    with np.load(goldens.FOLDER / 'ctkd_schedule.npz') as golden:
        found = [reversal_factor(int(epoch)) for epoch in golden['epoch']]
        assert found == pytest.approx(golden['lambda_cos10'].tolist(), rel=1e-12)
    entries = json.loads((goldens.FOLDER / 'index.json').read_text())['entries']
    [entry] = [e for e in entries if e['file'] == 'ctkd_schedule.npz']
    assert entry['hparams']['decay_max'] == 0


# The maths


def test_a_temperature_for_all_rows_and_one_for_each():
    student, teacher = logits()
    one = torch.tensor(2.5, dtype=torch.float64)
    each = torch.linspace(1.0, 9.0, 6, dtype=torch.float64)
    expected = by_hand(student, teacher, one.expand(6))
    assert tempered_kl(student, teacher, one).mean().item() == pytest.approx(expected)
    expected = by_hand(student, teacher, each)
    assert tempered_kl(student, teacher, each).mean().item() == pytest.approx(expected)


@pytest.mark.parametrize('shape', [(), (3,)], ids=str)
def test_gradcheck(shape):
    student, teacher = logits(3, 4)
    temperature = torch.full(shape, 4.0, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, t: tempered_kl(s, teacher, t),
        (student.clone().requires_grad_(), temperature),
    )


def test_the_slope_in_the_temperature_survives_float32():
    """Near-equal nets at a high temperature: a sum of terms 1e6 times as large."""
    student, teacher = logits(scale=1.0, dtype=torch.float32)
    student = teacher + 0.01 * student

    def slope(dtype):
        temperature = torch.tensor(15.6, dtype=dtype).requires_grad_()
        rows = tempered_kl(student.to(dtype), teacher.to(dtype), temperature)
        rows.sum().backward()
        return rows.detach(), temperature.grad.double()

    for single, double in zip(slope(torch.float32), slope(torch.float64), strict=True):
        assert_close(single, double, rtol=3e-6, atol=0)
    step = 0.1
    points = torch.tensor([15.6 - step, 15.6 + step], dtype=torch.float64)
    low, high = (tempered_kl(student, teacher, t).sum() for t in points)
    numeric = (high - low) / (2 * step)
    assert_close(slope(torch.float64)[1], numeric, rtol=1e-3, atol=0)


# The reversal and its schedule


def test_reversing_changes_no_value():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    out = reverse_gradient(x, -0.25)
    assert torch.equal(out, x)
    (out * torch.arange(5.0, dtype=torch.float64)).sum().backward()
    assert torch.equal(x.grad, -0.25 * torch.arange(5.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ('epoch', 'options', 'expected'),
    [
        (0, {}, (math.cos(math.pi / 10) - 1) / 2),
        (9, {}, -1.0),
        (200, {}, -1.0),
        (0, dict(epochs=2), -0.5),
        (4, dict(lambda_max=-1.0, lambda_min=-3.0), -2.0),
        (0, dict(schedule='linear'), -0.1),
        (99, dict(schedule='linear'), -0.9),
        (1, dict(schedule='linear', epochs=4, lambda_max=-1.0, lambda_min=-2.0), -1.5),
    ],
)
def test_lambda_of_an_epoch(epoch, options, expected):
    loss = build(epoch, **options)
    student, teacher = logits()
    grads = []
    for factor in (None, 1.0):
        if factor is not None:
            loss.epoch, loss.lambda_max, loss.lambda_min = 5, factor, factor
        else:
            assert loss.reversal == pytest.approx(expected)
        (grad,) = torch.autograd.grad(loss(student, teacher), loss.theta)
        grads.append(grad.item())
        if factor is None:
            assert loss.terms['reversal'].item() == pytest.approx(expected)
    assert abs(grads[1]) > 1e-3
    assert grads[0] == pytest.approx(expected * grads[1], rel=1e-5)


def test_without_the_hook_training_is_refused():
    loss = build(None)
    with pytest.raises(ValueError, match=r'`default_hooks\.distill_epoch`.*DistillEp'):
        loss(*logits())
    assert loss.terms == {}
    loss.eval()
    value = loss(*logits())
    expected = by_hand(*logits(), torch.full((6,), of_theta(1.0)))
    assert value.item() == pytest.approx(expected)
    (grad,) = torch.autograd.grad(value, loss.theta)
    assert grad == 0


# The module


@pytest.mark.parametrize(
    ('options', 'temperature'),
    [({}, 15.621171571), (dict(init=0.0, t_start=2.0, t_end=4.0), 4.0)],
)
def test_the_defaults_and_other_settings(options, temperature):
    student, teacher = logits()
    loss = build(**options)
    expected = by_hand(student, teacher, torch.full((6,), temperature))
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-8)
    assert loss.terms['temperature'].item() == pytest.approx(temperature)
    assert loss.terms.keys() == {'temperature', 'reversal'}


@pytest.mark.parametrize('size', [0.0, 1e30])
@pytest.mark.parametrize('theta', [-1e6, 0.0, 1e6])
@pytest.mark.parametrize('instance_wise', [False, True])
def test_hostile_logits_stay_finite(size, theta, instance_wise):
    if instance_wise:  # its weights get the logits times the slope in T
        size = min(size, 1e15)
    student = torch.tensor([[size, -size, 0.0], [-size, size, size]]).requires_grad_()
    teacher = torch.tensor([[-size, size, 0.0], [0.0, size, -size]])
    options = dict(instance_wise=True, num_classes=3) if instance_wise else {}
    loss = build(9, init=theta, **options)
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    for parameter in loss.parameters():
        assert parameter.grad.isfinite().all()
    assert all(term.isfinite() for term in loss.terms.values())


# One temperature for each sample


def instance(epoch=9, **options):
    torch.manual_seed(0)
    return build(epoch, instance_wise=True, num_classes=5, **options)


def test_instance_wise_starts_as_the_global_form():
    student, teacher = logits()
    assert_close(instance()(student, teacher), build()(student, teacher))
    assert [p.shape for p in instance(hidden=7).parameters()] == [
        *((7, 10), (7,)),
        *((1, 7), (1,)),
    ]


def stirred():
    """A network that no longer gives all samples the same."""
    loss = instance().double()
    nn.init.normal_(loss.network[2].weight, generator=torch.Generator().manual_seed(3))
    return loss


def temperatures_of(loss, student, teacher):
    rows = [z - z.mean(1, keepdim=True) for z in (student, teacher)]
    first, _, last = loss.network
    hidden = (torch.cat(rows, 1) @ first.weight.T + first.bias).clamp(min=0)
    theta = hidden @ last.weight[0] + last.bias
    return 1 + 20 / (1 + (-theta).exp())


def test_instance_wise_temperatures():
    student, teacher = logits()
    loss = stirred()
    value = loss(student, teacher)
    temperatures = temperatures_of(loss, student, teacher)
    assert temperatures.std() > 0.1
    assert value.item() == pytest.approx(by_hand(student, teacher, temperatures))
    assert_close(loss.terms['temperature'], temperatures.mean().detach())
    # Neither a constant of all logits nor the rest of the batch matters to a sample.
    assert_close(loss(student + 5, teacher - 2), value)
    parts = [loss(student[i : i + 1], teacher[i : i + 1]) for i in range(6)]
    assert_close(torch.stack(parts).mean(), value)


def test_the_student_learns_nothing_through_the_network():
    student, teacher = logits()
    loss = stirred()
    leaf = student.clone().requires_grad_()
    loss(leaf, teacher).backward()
    temperatures = temperatures_of(loss, student, teacher).detach()
    other = student.clone().requires_grad_()
    tempered_kl(other, teacher, temperatures).mean().backward()
    assert_close(leaf.grad, other.grad)


def test_the_networks_gradient_is_reversed():
    student, teacher = logits()
    grads = []
    for epoch, least in ((9, -1.0), (4, -1.0), (9, 0.0)):
        loss = stirred()
        loss.epoch, loss.lambda_min = epoch, least
        loss(student, teacher).backward()
        grads.append([parameter.grad for parameter in loss.parameters()])
    for full, half, none in zip(*grads, strict=True):
        assert full.abs().max() > 0
        assert_close(half, full / 2)
        assert not none.any()
    optimizer = torch.optim.SGD((loss := stirred()).parameters(), lr=1e-4)
    before = loss(student, teacher)
    before.backward()
    optimizer.step()
    assert loss(student, teacher) > before


# Mistakes


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(lambda_max=0.5), r'lambda_max=0\.5.*<= 0'),
        (dict(lambda_max=-2.0), r'lambda_max=-2\.0 and lambda_min=-1\.0'),
        (dict(epochs=0), 'epochs must be an integer from 1 on'),
        (dict(epochs=1, schedule='linear'), 'from 2 on'),
        (dict(schedule='step'), "schedule must be one of.*got 'step'"),
        (dict(instance_wise=True), 'needs num_classes.*None'),
        (dict(instance_wise=True, num_classes=2, hidden=0), 'hidden.*got 0'),
    ],
    ids=str,
)
def test_settings_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        build(None, **options)


@pytest.mark.parametrize('epoch', [-1, 1.0, True, None, '1'])
def test_what_is_no_epoch(epoch):
    with pytest.raises(ValueError, match='epoch must be an integer from 0 on'):
        build(None).set_epoch(epoch)


def test_wrong_temperatures_and_widths():
    with pytest.raises(ValueError, match=r'temperature has shape \(5,\)'):
        tempered_kl(*logits(), torch.ones(5))
    with pytest.raises(ValueError, match=r'`num_classes` = 5.*num_classes=4'):
        instance()(*logits(classes=4))
