"""What every registered loss must satisfy, tried by its arguments."""

import copy
import inspect
import math
import pickle

import pytest
import torch
from mmrazor.registry import MODELS
from torch import Tensor
from torch.testing import assert_close

from cakd_mm.models.losses.base import DistillLoss, as_distill_loss, losses_of
from cakd_mm.models.losses.feature_lists import FeatureListLoss
from cakd_mm.models.losses.feature_loss import FeatureLoss
from cakd_mm.models.term_axis import TermAxis

LOSSES = sorted(
    {
        kind
        for kind in MODELS.module_dict.values()
        if isinstance(kind, type) and issubclass(kind, DistillLoss)
    },
    key=lambda kind: kind.__name__,
)
EVERY = pytest.mark.parametrize('kind', LOSSES, ids=lambda kind: kind.__name__)
N, C = 6, 5
# What a loss without a default for an argument is built with.
REQUIRED = dict(channels_S=C, channels_T=C)
SMALL = dict(negatives=4, feat_dim=8)
# A net of the last epochs has a lambda other than 0.
EPOCH = 9


def build(kind, **settings):
    """Build a small loss of a kind, ready to be called once."""
    known = inspect.signature(kind).parameters
    options = {k: v for k, v in {**REQUIRED, **SMALL}.items() if k in known}
    torch.manual_seed(0)
    loss = kind(**{**options, **settings}).eval()
    if loss.needs_dataset:
        loss.set_dataset(torch.arange(4 * N) % 3, seed=0, batch_size=2 * N)
    if loss.needs_epoch:
        loss.set_epoch(EPOCH)
    return loss


def scores(rows=N, dtype=torch.float64, scale=2.0, seed=0):
    """Positive scores of student and teacher, (rows, C)."""
    draw = torch.Generator().manual_seed(seed)
    both = scale * torch.rand(2, rows, C, generator=draw, dtype=torch.float64)
    return both.to(dtype).unbind()


def arguments(kind, student, teacher):
    """Return what ``forward`` takes without a default, made of two score matrices."""
    labels = torch.arange(len(student)) % C
    made: dict = dict(preds_S=student, preds_T=teacher, gt_labels=labels)
    if issubclass(kind, FeatureListLoss):
        weight, bias = torch.linspace(0.5, 1.5, C), torch.linspace(-1, 0.3, C)
        made |= dict(
            preds_S=[as_map(student), student],
            preds_T=[as_map(teacher), teacher],
            bn_weights=[weight] * 2,
            bn_biases=[bias] * 2,
        )
    forward = inspect.signature(kind.forward).parameters
    needed = [
        name
        for name, parameter in forward.items()
        if name != 'self' and parameter.default is parameter.empty
    ]
    assert set(needed) <= made.keys(), f'say here what {kind.__name__} is fed'
    return {name: made[name] for name in needed}


def as_map(rows: Tensor) -> Tensor:
    """Return (rows, C) as maps (rows, C, 2, 2) that are not constant."""
    return rows[:, :, None, None] * torch.tensor([[0.5, -1.0], [2.0, 1.0]]).to(rows)


def value(loss, student, teacher):
    """Call a loss on two matrices of scores."""
    if loss.needs_dataset:
        loss.indices = torch.arange(len(student))
    return loss(**arguments(type(loss), student, teacher))


def value_and_grad(loss, student, teacher):
    leaf = student.clone().requires_grad_()
    result = value(loss, leaf, teacher)
    return result.detach(), torch.autograd.grad(result, leaf)[0]


@EVERY
def test_gradcheck(kind):
    student, teacher = scores()
    loss = build(kind).double()
    # A first training step settles what a loss keeps of it, as CRD's normaliser.
    value(loss.train(), student, teacher)
    loss.eval()
    assert torch.autograd.gradcheck(
        lambda s: value(loss, s, teacher), student.requires_grad_()
    )


@EVERY
def test_the_teacher_gets_no_gradient(kind):
    student, teacher = scores()
    teacher.requires_grad_(), student.requires_grad_()
    value(build(kind).double(), student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@EVERY
def test_the_weight_is_a_factor(kind):
    pair = scores()
    once, thrice = (build(kind, loss_weight=w).double() for w in (1.0, 3.0))
    assert_close(value(thrice, *pair), 3 * value(once, *pair))


@EVERY
def test_it_is_a_mean_over_the_batch(kind):
    """Twice the same samples, and any order of them, give the same loss."""
    if kind.needs_dataset:
        pytest.skip('its negatives and its banks are those of the images')
    student, teacher = scores()
    loss, order = build(kind).double(), torch.tensor([3, 1, 5, 0, 4, 2])

    def of_rows(rows):
        fed = arguments(kind, student[rows], teacher[rows])
        if 'gt_labels' in fed:
            fed['gt_labels'] = rows % C
        return loss(**fed)

    once = of_rows(torch.arange(N))
    assert_close(of_rows(order), once)
    assert_close(of_rows(torch.cat((order, order))), once)


@EVERY
def test_an_empty_batch_costs_nothing(kind):
    student, teacher = (x[:0] for x in scores())
    result, grad = value_and_grad(build(kind).double(), student, teacher)
    assert result == 0 and grad.shape == (0, C)


@EVERY
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(kind, dtype):
    pair = scores(dtype=dtype)
    wide = [x.float() for x in pair]
    got, want = value(build(kind), *pair), value(build(kind), *wide)
    assert got.dtype == torch.float32
    assert_close(got, want, rtol=1e-6, atol=1e-7)


@EVERY
@pytest.mark.parametrize('scale', [1e3, 1e6])
def test_large_scores_leave_the_gradient_finite(kind, scale):
    result, grad = value_and_grad(build(kind), *scores(8, torch.float32, scale))
    assert result.isfinite() and grad.isfinite().all()


@EVERY
def test_the_terms_are_the_last_steps(kind):
    loss = build(kind).double()
    assert loss.terms == {}
    first = scores(seed=1)
    value(loss, *first)
    before = loss.terms
    value(loss, *scores(seed=2))
    value(loss, *first)
    assert before.keys() == loss.terms.keys() and before
    for name, term in loss.terms.items():
        assert term.dim() == 0 and not term.requires_grad and term.isfinite()
        assert_close(term, before[name])
        axis, label = loss.term_labels[name]
        assert isinstance(axis, TermAxis) and axis is not TermAxis.OTHER
        assert label.partition(': ')[0].lower() == name.lower()


@EVERY
def test_it_prints_its_settings(kind):
    text = repr(build(kind, loss_weight=0.125))
    assert text.startswith(f'{kind.__name__}(') and 'loss_weight=0.125' in text
    assert 'probing' not in text


@EVERY
def test_it_can_be_copied_and_saved(kind):
    pair = scores()
    loss = build(kind).double()
    want = value(loss, *pair)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert_close(value(other, *pair), want)


@EVERY
def test_a_wrong_number_is_named(kind):
    """Each setting with a number for a default is tried."""
    numbers = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if isinstance(parameter.default, float)
    ] + ['loss_weight']
    for name in numbers:
        for wrong in (math.inf, math.nan, '4', None, True):
            with pytest.raises(ValueError, match=f'{name}.*{wrong!r}'):
                build(kind, **{name: wrong})
    with pytest.raises(ValueError, match=r'loss_weight must be .*, got -1\.0'):
        build(kind, loss_weight=-1.0)


@EVERY
def test_what_is_no_tensor_is_refused(kind):
    """A tuple, as a neck returns one, says what to write."""
    student, teacher = scores()
    fed = arguments(kind, student, teacher)
    match = 'float tensor|list of maps'
    for name in ('preds_S', 'preds_T'):
        for wrong in ((fed[name],), None, torch.ones(N, C, dtype=torch.int64)):
            if issubclass(kind, FeatureListLoss) and isinstance(wrong, tuple):
                continue
            with pytest.raises(TypeError, match=f'{name}.*({match})'):
                loss = build(kind)
                if loss.needs_dataset:
                    loss.indices = torch.arange(N)
                loss(**{**fed, name: wrong})


@pytest.mark.parametrize(
    'kind', [k for k in LOSSES if issubclass(k, FeatureLoss)], ids=lambda k: k.__name__
)
def test_standardising_asks_for_the_teachers_width(kind):
    assert kind.wanted_widths(dict(standardize=True)) == {'channels': 'teacher'}
    assert kind.wanted_widths({}) == {}


@EVERY
def test_widths_are_arguments(kind):
    """What a loss asks for can be given to it."""
    flags = dict(standardize=True, instance_wise=True)
    known = inspect.signature(kind.__init__).parameters
    takes_more = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name, source in kind.wanted_widths(flags).items():
        assert name in known or takes_more
        assert source in ('student', 'teacher', 'classes')


class Plain(torch.nn.Module):
    """A loss of a user who knows nothing of ours."""

    def forward(self, preds_S, preds_T):
        return (preds_S - preds_T).square().mean()


class Talking(Plain):
    """The same with some names of the protocol."""

    probing = True
    indices = None

    def __init__(self):
        super().__init__()
        self.told = []
        self.terms = {'gap': torch.tensor(2.0)}
        self.auxiliary = torch.tensor(3.0)

    def set_epoch(self, epoch):
        self.told.append(epoch)

    def set_dataset(self, labels, seed=0, batch_size=0):
        self.told.append((len(labels), seed, batch_size))

    def warning(self, terms):
        return f'gap is {terms["gap"]}'


def test_a_plain_module_is_a_loss_without_any_wish():
    module = Plain()
    loss = as_distill_loss(module)
    assert not loss.needs_epoch and not loss.needs_dataset
    assert loss.terms == {} and loss.auxiliary is None
    assert loss.warning({'gap': 1.0}) is None
    loss.probing = False
    assert not hasattr(module, 'probing')
    assert not list(loss.parameters()) and loss.state_dict() == {}
    assert loss.class_name == 'Plain'


def test_a_foreign_loss_answers_for_itself():
    module = Talking()
    loss = as_distill_loss(module)
    assert loss.needs_epoch and loss.needs_dataset
    loss.set_epoch(3)
    loss.set_dataset([0, 1], 7, 2)
    assert module.told == [3, (2, 7, 2)]
    assert loss.terms == {'gap': torch.tensor(2.0)} and loss.auxiliary == 3
    assert loss.warning({'gap': 1.5}) == 'gap is 1.5'
    loss.probing, loss.indices = False, torch.arange(2)
    assert module.probing is False and module.indices.tolist() == [0, 1]


def test_losses_of_a_model_without_a_distiller():
    assert losses_of(Plain()) == []
