"""What tests of a form of CAKD's losses need to compare it with another."""

import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close


def problem(kind, rows=9, classes=13, scale=3.0, dtype=torch.float32, seed=0):
    """Scores of student and teacher, and labels or a mask with empty clusters."""
    draw = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, rows, classes, generator=draw)
    if kind == 'label':
        third = torch.randint(classes, (rows,), generator=draw)
    else:
        third = torch.rand(rows, classes, generator=draw) < 0.4
        third[:1], third[1:2] = False, True
    return student.to(dtype), teacher.to(dtype), third


def build(kind, **settings):
    """The logit loss that takes such a problem."""
    multi = kind == 'mask'
    return MODELS.build(dict(type='CAKDLogitLoss', multi_label=multi, **settings))


def step(loss, student, *others):
    """Value, gradient of three times the value, and terms."""
    leaf = student.clone().requires_grad_()
    value = loss(leaf, *others)
    (3 * value).backward()
    return value.detach(), leaf.grad, loss.terms


def assert_alike(got, want, rtol=1e-6):
    """Compare values, gradients and terms; gradients by their largest element."""
    (value, grad, terms), (value_2, grad_2, terms_2) = got, want
    assert value.isfinite() and grad.abs().max() > 0
    assert_close(value, value_2, rtol=rtol, atol=1e-7)
    assert_close(terms, terms_2, rtol=1e-5, atol=1e-5)
    assert_close(grad, grad_2, rtol=0, atol=3 * rtol * grad_2.abs().max().item())
