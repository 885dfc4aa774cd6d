"""LogitLoss, and logit standardisation in each loss that derives from it."""

import inspect

import pytest
import torch
from loss_cases import CASES, LOSSES, arguments, scores, value
from torch.testing import assert_close

from cakd_mm.models.losses import SigmoidKDLoss
from cakd_mm.models.losses.functional.standardized import standardized
from cakd_mm.models.losses.logit_loss import LogitLoss

KINDS = [kind for kind in LOSSES if issubclass(kind, LogitLoss)]
EVERY = pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.__name__)
# MLKD compares the scores in two ways, of which one is standardised: see its own tests.
EVERY_CASE = pytest.mark.parametrize(
    'case',
    [
        case
        for case in CASES
        if issubclass(case.values[0].kind, LogitLoss)
        and case.values[0].kind.views == 1
        and not case.values[0].settings.get('standardize')
    ],
)


def value_and_grad(loss, student, teacher):
    leaf = student.clone().requires_grad_()
    result = value(loss, leaf, teacher)
    return result.detach(), torch.autograd.grad(result, leaf)[0]


def test_the_losses_between_logits_are_found():
    names = {kind.__name__ for kind in KINDS}
    assert {'KDLoss', 'DecoupledKDLoss', 'NKDLoss', 'CTKDLoss'} <= names
    assert SigmoidKDLoss not in KINDS


@EVERY_CASE
def test_standardised_by_the_loss_or_by_hand(case):
    student, teacher = scores()
    found = value(case(standardize=True).double(), student, teacher)
    by_hand = standardized(student), standardized(teacher)
    assert_close(found, value(case().double(), *by_hand), rtol=1e-12, atol=0)


@EVERY_CASE
def test_the_gradient_is_that_of_the_chain(case):
    student, teacher = scores()
    _, grad = value_and_grad(case(standardize=True).double(), student, teacher)
    inner = standardized(student)
    _, outer = value_and_grad(case().double(), inner, standardized(teacher))
    leaf = student.clone().requires_grad_()
    standardized(leaf).backward(outer)
    assert_close(grad, leaf.grad)


@EVERY_CASE
def test_the_scale_and_the_level_of_a_net_are_not_seen(case):
    student, teacher = scores()
    loss = case(standardize=True).double()
    want, grad = value_and_grad(loss, student, teacher)
    factors = torch.linspace(0.3, 5.0, len(student)).double().unsqueeze(1)
    offsets = torch.linspace(-9.0, 7.0, len(student)).double().unsqueeze(1)
    found, other = value_and_grad(loss, factors * student + offsets, teacher)
    assert_close(found, want, rtol=1e-5, atol=1e-7)
    assert_close(factors * other, grad, rtol=1e-4, atol=1e-6)
    assert_close(
        value(loss, student, factors * teacher + offsets), want, rtol=1e-5, atol=1e-7
    )


@EVERY_CASE
def test_a_student_with_equal_scores_learns_nothing(case):
    """Its deviation is 0, and so is the slope of what is divided by it."""
    _, teacher = scores()
    flat = torch.full_like(teacher, 0.1)
    result, grad = value_and_grad(case(standardize=True).double(), flat, teacher)
    assert result.isfinite()
    assert torch.equal(grad, torch.zeros_like(grad))


@EVERY_CASE
def test_one_class_has_no_gradient(case):
    if 'num_classes' in case.settings:
        case = case._replace(settings=case.settings | dict(num_classes=1))
    loss = case(standardize=True).double()
    pair = torch.tensor([[3.0], [-2.0]]).double(), torch.tensor([[1.0], [0.5]]).double()
    fed = arguments(loss, pair[0].requires_grad_(), pair[1])
    if 'gt_labels' in fed:
        multi = getattr(loss, 'multi_label', False)
        fed['gt_labels'] = torch.ones(2, 1) if multi else torch.zeros(2).long()
    if 'head_weight' in fed:
        fed['head_weight'] = fed['head_weight'][:1]
    if getattr(loss, 'top_classes', 1) > 1 or case.settings.get('strong_classes'):
        with pytest.raises(ValueError, match='_classes.*here are 1 classes'):
            loss(**fed)
        return
    result = loss(**fed)
    result.backward()
    assert result.isfinite()
    assert torch.equal(pair[0].grad, torch.zeros(2, 1).double())


@EVERY
def test_it_is_the_last_setting_and_off_unless_asked_for(kind):
    parameters = list(inspect.signature(kind).parameters.values())
    named = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert named[-1].name == 'standardize' and named[-1].default is False
    assert kind().standardize is False
    assert 'standardize=True' in repr(kind(standardize=True))


@EVERY
@pytest.mark.parametrize('wrong', ['yes', 1, None])
def test_what_is_no_bool_is_refused(kind, wrong):
    match = f'standardize must be True or False, got {wrong!r}.*{kind.__name__}'
    with pytest.raises(TypeError, match=match):
        kind(standardize=wrong)


def test_the_scores_of_a_subclass():
    pair = scores()
    plain, other = LogitLoss(), LogitLoss(0.5, standardize=True)
    assert_close(plain.scores(*pair), pair, rtol=0, atol=0)
    assert other.loss_weight == 0.5
    student, teacher = other.scores(*(x.half().requires_grad_() for x in pair))
    assert student.dtype == teacher.dtype == torch.float32
    assert student.requires_grad and not teacher.requires_grad
    for found, made in zip((student, teacher), pair, strict=True):
        assert_close(found.double(), standardized(made), rtol=5e-3, atol=5e-3)
    with pytest.raises(ValueError, match=r'preds_S has shape \(6, 5\) and preds_T'):
        plain.scores(pair[0], pair[1][:, :3])
