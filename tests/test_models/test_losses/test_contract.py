"""What every registered loss must satisfy, tried by its arguments."""

import copy
import functools
import inspect
import math
import pickle
from contextlib import nullcontext

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from loss_cases import (
    CASES,
    LOSSES,
    SCORERS,
    C,
    N,
    arguments,
    build,
    scores,
    value,
)
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from cakd_mm.models.checks import LARGEST_INPUT, LARGEST_SETTING, LEAST_SETTING
from cakd_mm.models.losses.base import as_distill_loss, losses_of
from cakd_mm.models.losses.feature_lists import FeatureListLoss
from cakd_mm.models.losses.feature_loss import FeatureLoss
from cakd_mm.models.losses.logit_loss import LogitLoss
from cakd_mm.models.term_axis import TermAxis

EVERY = pytest.mark.parametrize('kind', LOSSES, ids=lambda kind: kind.__name__)
FLOAT_MAX = torch.finfo(torch.float32).max
EVERY_CASE = pytest.mark.parametrize('case', CASES)


def of_cases(wanted):
    """Parametrise a test by the cases of which ``wanted`` is true."""
    return pytest.mark.parametrize('case', [c for c in CASES if wanted(c.values[0])])


# Logits that are standardised are other numbers for the same loss, in the same place.
AS_THEY_ARE = of_cases(
    lambda case: (
        not (
            issubclass(case.kind, LogitLoss) and case.settings == dict(standardize=True)
        )
    )
)
WITHOUT_DATASET = of_cases(lambda case: not case.kind.needs_dataset)
# CTKD's temperatures of single samples follow the student through a part of the graph
# that has no gradient.
GRADIENTS = of_cases(lambda case: not case.settings.get('instance_wise'))
# Those that are not 0 for equal nets: they are no divergences, or not of equals.
NEVER_ZERO = ('CRDBankLoss', 'HardLabelLoss', 'NKDLoss', 'WKDLogitLoss', 'WTTMLoss')
# Those that are almost 0 for equal nets, because there is an epsilon in a denominator.
NEARLY_ZERO = ('DISTLogitLoss',)
# Those that compare the images of a batch with each other, so that the mean of the
# losses of its halves is another.
OF_THE_BATCH = ('DISTLogitLoss', 'MLKDLoss')
# Of these, the one whose loss grows with the batch.
OF_ITS_SIZE = ('MLKDLoss',)
# Those that square what they are fed, or whose parameters see it, do not survive the
# largest numbers.
BOUNDED = (
    *('CRDBankLoss', 'FeatureSquaredLoss', 'HCLLoss', 'OFDFeatureLoss'),
    *('CTKDLoss', 'NORMLoss', 'WKDFeatureLoss'),
)
AT_THE_BOUND = pytest.mark.parametrize('case', CASES + SCORERS)
POSITIVE = (
    *('tau', 'strong_share', 't_start', 't_end'),
    *('sharpness', 'entropy_weight'),
)
UNBOUNDED = of_cases(
    lambda case: (
        case.kind.__name__ not in BOUNDED and not case.settings.get('standardize')
    )
)
# Those that keep scores alone for the backward: no sort, no bank, no temperature, no
# correlations, no moments of cells, and no scores that were standardised first. The
# graph of WKD's transport, which lives in forward alone, would be counted as well.
MORE_THAN_SCORES = (
    'CMKDLoss',
    'CRDBankLoss',
    'CTKDLoss',
    'DISTLogitLoss',
    'LDRLDLoss',
    'MLKDLoss',
    'WKDLogitLoss',
)
SCORES_ALONE = of_cases(
    lambda case: (
        case.kind.__name__ not in MORE_THAN_SCORES
        and not (issubclass(case.kind, LogitLoss) and case.settings.get('standardize'))
        and not case.settings.get('grid')
    )
)
# Those that cannot do without one class per image.
WITH_LABELS = [
    kind
    for kind in LOSSES
    if (labels := inspect.signature(kind.forward).parameters.get('gt_labels'))
    and labels.default is labels.empty
]


def labelled(kind, pair, labels):
    loss = build(kind)
    return loss(**{**arguments(loss, *pair), 'gt_labels': labels})


LABELLED = pytest.mark.parametrize('kind', WITH_LABELS, ids=lambda kind: kind.__name__)


def value_and_grad(loss, student, teacher):
    leaf = student.clone().requires_grad_()
    result = value(loss, leaf, teacher)
    return result.detach(), torch.autograd.grad(result, leaf)[0]


def state_of(loss):
    return {name: tensor.clone() for name, tensor in loss.state_dict().items()}


# Values and gradients


@GRADIENTS
def test_gradcheck(case):
    student, teacher = scores()
    loss = case().double()
    # A first training step settles what a loss keeps of it, as CRD's normaliser.
    value(loss.train(), student, teacher)
    loss.eval()
    assert torch.autograd.gradcheck(
        lambda s: value(loss, s, teacher), student.requires_grad_()
    )


@GRADIENTS
def test_a_second_derivative_is_right_or_refused(case):
    """Also behind a net, whose own curvature would hide that the loss's is missing."""
    student, teacher = scores()
    loss = case().double().eval()

    def of_a_net(x):
        return value(loss, x + 0.1 * x.square(), teacher)

    leaf = student.requires_grad_()
    try:
        torch.autograd.grad(of_a_net(leaf), leaf, create_graph=True)
    except RuntimeError as error:
        assert 'cannot be differentiated once more' in str(error)
    else:
        assert torch.autograd.gradgradcheck(of_a_net, leaf, fast_mode=True)


@EVERY_CASE
@pytest.mark.parametrize('training', [False, True])
def test_the_gradient_goes_to_the_student_alone(case, training):
    student, teacher = scores()
    loss = case().double().train(training)
    trained = any(True for _ in loss.parameters())
    assert value(loss, student, teacher.requires_grad_()).requires_grad == trained
    value(loss, student.requires_grad_(), teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@AS_THEY_ARE
def test_the_weight_is_a_factor_of_the_loss_but_not_of_its_terms(case):
    pair = scores()
    once, thrice, never = (case(loss_weight=w).double() for w in (1.0, 3.0, 0))
    assert_close(value(thrice, *pair), 3 * value(once, *pair))
    assert value(never, *pair) == 0
    assert_close(thrice.terms, once.terms)


@WITHOUT_DATASET
def test_it_is_a_mean_over_the_batch(case):
    """Twice the same samples, any order of them, and halves give the same loss."""
    student, teacher = scores()
    loss, order = case().double(), torch.tensor([3, 1, 5, 0, 4, 2])

    def of_rows(rows):
        return value(loss, student[rows], teacher[rows], rows)

    once = of_rows(torch.arange(N))
    assert once.dim() == 0
    assert_close(of_rows(order), once)
    if case.kind.__name__ not in OF_ITS_SIZE:
        assert_close(of_rows(torch.cat((order, order))), once)
    if case.kind.__name__ in OF_THE_BATCH:
        return
    # So that two ranks compute what one does of all images.
    halves = [of_rows(rows) for rows in (order[::2], order[1::2])]
    assert_close(sum(halves) / 2, once)


@of_cases(lambda case: case().mean_of_rows)
def test_parts_of_a_mean_of_rows_are_weighted_by_their_length(case):
    """And a call changes no other, because each part may be computed twice."""
    student, teacher = scores()
    loss, rows = case().double().train(), torch.arange(N)
    whole, terms = value(loss, student, teacher), loss.terms
    before = state_of(loss)
    parts, found = [], []
    for part in (rows[:1], rows[1:]):
        parts.append(len(part) / N * value(loss, student[part], teacher[part], part))
        found.append({name: len(part) / N * x for name, x in loss.terms.items()})
    assert_close(sum(parts), whole)
    assert_close({name: sum(x[name] for x in found) for name in terms}, terms)
    assert_close(state_of(loss), before, rtol=0, atol=0)


@EVERY_CASE
def test_equal_nets(case):
    student, _ = scores()
    result, grad = value_and_grad(case().double(), student, student)
    if case.kind.__name__ in NEVER_ZERO:
        assert result > 0.01
    elif case.kind.__name__ in NEARLY_ZERO:
        assert result.abs() < 1e-5 and grad.abs().max() < 1e-5
    else:
        assert result.abs() < 1e-12 and grad.abs().max() < 1e-8


@EVERY_CASE
def test_an_empty_batch_costs_nothing_and_is_forgotten(case):
    pair = scores()
    loss, other = case().double().train(), case().double().train()
    empty = [x[:0] for x in pair]
    result, grad = value_and_grad(loss, *empty)
    assert result == 0 and grad.shape == (0, C)
    assert all(term.isfinite() for term in loss.terms.values())
    if not loss.needs_dataset:  # a step without images has other negatives
        assert_close(value(loss, *pair), value(other, *pair))


# Precision


@EVERY_CASE
def test_float32_is_near_float64(case):
    got = value_and_grad(case(), *scores(dtype=torch.float32))
    want = value_and_grad(case().double(), *scores())
    assert {x.dtype for x in got} == {torch.float32}
    assert_close([x.double() for x in got], list(want), rtol=3e-5, atol=1e-6)


@EVERY_CASE
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(case, dtype):
    pair = scores(dtype=dtype)
    got = value_and_grad(case(), *pair)
    want = value_and_grad(case(), *(x.float() for x in pair))
    assert got[0].dtype == torch.float32 and got[1].dtype == dtype
    assert_close(got[0], want[0], rtol=1e-6, atol=1e-7)
    # Maps are laid out in half precision before the loss sees them.
    assert_close(got[1].float(), want[1], rtol=2e-2, atol=1e-3)


@EVERY_CASE
def test_autocast_changes_nothing(case):
    student, teacher = scores(dtype=torch.float32)
    want = value_and_grad(case(), student, teacher)
    with torch.autocast('cpu', torch.bfloat16):
        result = value(case(), student.requires_grad_(), teacher)
    grad = torch.autograd.grad(result, student)[0]
    assert_close((result.detach(), grad), want, rtol=0, atol=0)


# Extreme scores


def extreme_scores(rows, dtype):
    """Return pairs of student and teacher up to the bound, by what they are."""
    small, other = scores(rows, dtype)
    huge = LARGEST_INPUT * (1 - small).sign()
    single = small.clone()
    single[:, 1] = LARGEST_INPUT
    constant = torch.full_like(small, LARGEST_INPUT)
    tiny = torch.finfo(dtype).smallest_normal * small
    return dict(
        opposite=(huge, -huge),
        shuffled=(huge, huge.roll(1, 1)),
        student=(huge, small),
        teacher=(small, huge),
        one_up=(single, other),
        one_down=(-single, other),
        one_of_the_teacher=(small, -single),
        one_of_both=(single, single.roll(1, 1)),
        constant=(constant, -constant),
        constant_teacher=(small, constant),
        tiny=(tiny, tiny.flip(1)),
        near=(small + small * torch.finfo(dtype).eps, small),
        zero=(0 * small, 0 * other),
        wide=(small * LARGEST_INPUT / 2, small.flip(1) * LARGEST_INPUT / 2),
    )


def settings_at(end, case):
    """Return the settings of a loss that have a range, all at one end of it."""
    named = ('tau', 'alpha', 'beta', 'gamma', 't_start', 't_end', 'regularization')
    known = inspect.signature(case.kind).parameters.keys() - case.settings.keys()
    return {name: end for name in (*named, 'loss_weight') if name in known} | (
        {'lambda_min': -end} if 'lambda_min' in known else {}
    )


def assert_finite(loss, student, teacher, what):
    """Assert that value, terms and all gradients are."""
    leaf = student.clone().requires_grad_()
    result = value(loss, leaf, teacher)
    (result + (0 if loss.auxiliary is None else loss.auxiliary)).backward()
    made = dict(value=result, by_student=leaf.grad, **loss.terms)
    made |= {name: x.grad for name, x in loss.named_parameters() if x.grad is not None}
    made |= dict(loss.named_buffers())
    assert {k: x for k, x in made.items() if not x.isfinite().all()} == {}, what


@AT_THE_BOUND
@pytest.mark.parametrize(
    ('dtype', 'end'),
    [
        (torch.float32, None),
        (torch.float32, LEAST_SETTING),
        (torch.float32, LARGEST_SETTING),
        (torch.float64, None),
    ],
)
def test_all_is_finite_up_to_the_bound(case, dtype, end):
    """In the first step and in a later one, whose statistics are of other features."""
    chosen = {} if end is None else settings_at(end, case)
    has_state = any(True for _ in case().buffers())
    for rows in (1, N):
        pairs = extreme_scores(rows, dtype)
        # The state is kept in the same way in each precision.
        is_kept = has_state and rows == N and dtype == torch.float32
        if dtype == torch.float64:  # What is not near its own limits is as in float32.
            pairs = {what: pairs[what] for what in ('tiny', 'near', 'zero')}
        elif rows == N and case().mean_of_rows and not has_state:
            student, teacher = map(torch.cat, zip(*pairs.values(), strict=True))
            pairs = dict(all=(student, teacher))
        for what, (student, teacher) in pairs.items():
            if case.settings.get('gamma') == 'adaptive':
                teacher = teacher.abs()
            for earlier in [None, *(['zero', 'constant_teacher'] * is_kept)]:
                loss = case(**chosen).to(dtype).train()
                if earlier:
                    value(loss, *pairs[earlier])
                assert_finite(loss, student, teacher, (what, rows, earlier))


@of_cases(
    lambda case: (
        issubclass(case.kind, FeatureListLoss)
        or case.settings.get('granularity') == 'flat'
    )
)
def test_a_large_map_at_the_bound_is_finite(case):
    """The squares of 330,000 elements a sample are added up."""
    student, teacher = (LARGEST_INPUT / 2 * x for x in scores(2, torch.float32, 1.0))
    loss = case(**settings_at(LARGEST_SETTING, case)).train()
    fed = arguments(loss, student.requires_grad_(), teacher)
    for name in ('preds_S', 'preds_T'):
        maps = fed[name] if isinstance(fed[name], list) else [fed[name]]
        maps = [x.repeat(1, 1, 128, 128) if x.dim() == 4 else x for x in maps]
        fed[name] = maps if isinstance(fed[name], list) else maps[0]
    result = loss(**fed)
    (grad,) = torch.autograd.grad(result, student)
    assert result.isfinite() and result > 0 and grad.isfinite().all()


@UNBOUNDED
def test_the_largest_scores(case):
    """The mean of the rows may overflow then, the gradient must not."""
    scale = FLOAT_MAX / 2  # because a map has twice the scores
    result, grad = value_and_grad(
        case(), *(scale * x for x in scores(8, torch.float32, 1.0))
    )
    assert grad.isfinite().all() and not result.isnan()


@WITHOUT_DATASET
def test_a_nan_shows(case):
    student, teacher = scores()
    student[1, 2] = math.nan
    assert value(case().double(), student, teacher).isnan()


ROWS = st.lists(st.floats(0, 1e4, width=32), min_size=C, max_size=C)


@WITHOUT_DATASET
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    student=st.lists(ROWS, min_size=3, max_size=3),
    teacher=st.lists(ROWS, min_size=3, max_size=3),
    order=st.permutations(range(3)),
)
def test_finite_and_without_order_whatever_the_scores(case, student, teacher, order):
    pair = torch.tensor(student), torch.tensor(teacher)
    loss = case(loss_weight=300.0)
    result, grad = value_and_grad(loss, *pair)
    assert result.isfinite() and grad.isfinite().all()
    assert result > -1e-2
    assert all(term.isfinite() for term in loss.terms.values())
    rows = torch.tensor(order)
    moved = value(loss, *(x[rows] for x in pair), rows)
    assert_close(moved, result, rtol=1e-4, atol=1e-2)


# Autograd and devices


@EVERY_CASE
def test_what_it_is_fed_is_left_alone(case):
    pair = scores()
    before = [x.clone() for x in pair]
    value_and_grad(case().double().train(), *pair)
    assert_close(list(pair), before, rtol=0, atol=0)


@EVERY_CASE
def test_the_graph_can_be_kept(case):
    student, teacher = scores()
    result = value(case().double(), student.requires_grad_(), teacher)
    grads = [
        torch.autograd.grad(result, student, retain_graph=True)[0] for _ in range(2)
    ]
    assert_close(*grads, rtol=0, atol=0)


class Reads(TorchDispatchMode):
    """Counts numbers read of tensors, for each of which a host waits for a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += '_local_scalar_dense' in str(func)
        return func(*args, **(kwargs or {}))


@EVERY_CASE
def test_nothing_is_read_back_to_the_host(case, monkeypatch):
    loss = case().train()
    pair = scores(dtype=torch.float32)
    for _ in range(2):  # the first steps may look at their numbers once
        value(loss, *pair)
    student, teacher = pair
    if 'gt_labels' in arguments(loss, *pair):  # it looks at labels, but on a CPU only
        student, teacher = (x.to('meta') for x in pair)
        loss.to('meta')
        # There is no autocast of such tensors that could be turned off.
        monkeypatch.setattr(torch, 'autocast', lambda *_, **__: nullcontext())
    with Reads() as reads:
        value(loss, student.requires_grad_(), teacher).backward()
    assert student.grad.shape == (N, C)
    # The lowest and the highest index of the images, which are on the host.
    assert reads.count == (2 if loss.needs_dataset else 0)


@SCORES_ALONE
def test_few_bytes_are_kept_for_backward(case):
    """Less than three times the scores."""
    saved: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    loss = case()
    student, teacher = scores(64, torch.float32)
    fed = arguments(loss, student.requires_grad_(), teacher)
    fed_S = fed['preds_S'] if isinstance(fed['preds_S'], list) else [fed['preds_S']]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(**fed)
    assert 0 < sum(saved.values()) <= 3 * sum(x.nbytes for x in fed_S)


@of_cases(lambda case: 'compile' in inspect.signature(case.kind).parameters)
def test_compiled_it_gives_the_same(case, monkeypatch):
    monkeypatch.setattr(
        torch, 'compile', functools.partial(torch.compile, backend='aot_eager')
    )
    torch._dynamo.reset()
    pair = scores(dtype=torch.float32)
    plain, compiled = case().train(), case(compile=True).train()
    for _ in range(2):
        got, want = (value_and_grad(loss, *pair) for loss in (compiled, plain))
        assert_close(got, want, rtol=1e-5, atol=1e-6)
        assert_close(compiled.terms, plain.terms, rtol=1e-5, atol=1e-6)


@of_cases(
    lambda case: (
        'compile' in inspect.signature(case.kind).parameters
        and not case.settings.get('granularity')
    )
)
def test_an_epochs_last_batch_is_not_compiled_again(case, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append([x.shape for x in inputs if isinstance(x, Tensor)])
        return graph

    monkeypatch.setattr(
        torch, 'compile', functools.partial(torch.compile, backend=backend)
    )
    torch._dynamo.reset()
    plain, compiled = case().train(), case(compile=True).train()
    for epoch in range(2):
        for count in (8, 8, 3, 1):
            pair = scores(count, torch.float32, seed=epoch)
            got, want = (value_and_grad(loss, *pair) for loss in (compiled, plain))
            assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert len(graphs) == 1


# Terms and state


@AS_THEY_ARE
def test_the_terms_are_the_last_steps(case):
    loss = case().double()
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


@AS_THEY_ARE
def test_eval_leaves_its_state_alone(case):
    loss = case().train()
    value(loss, *scores(dtype=torch.float32))
    before = state_of(loss)
    value(loss.eval(), *scores(dtype=torch.float32, seed=1))
    assert_close(state_of(loss), before, rtol=0, atol=0)
    value(loss.train(), *scores(dtype=torch.float32, seed=1))
    moved = {name for name, _ in loss.named_buffers()} & before.keys()
    moved = {name for name in moved if not loss.state_dict()[name].equal(before[name])}
    counted = {name for name in before if name.endswith(('batches', 'steps'))}
    assert counted <= moved


@AS_THEY_ARE
def test_a_checkpoint_goes_on_where_it_stopped(case):
    whole, first, second = (case().train() for _ in range(3))
    steps = [scores(dtype=torch.float32, seed=seed) for seed in range(4)]
    for pair in steps:
        want = value(whole, *pair)
    for pair in steps[:2]:
        value(first, *pair)
    second.load_state_dict(first.state_dict())
    for pair in steps[2:]:
        got = value(second, *pair)
    assert_close(got, want, rtol=0, atol=0)
    assert_close(second.terms, whole.terms, rtol=0, atol=0)
    assert_close(state_of(second), state_of(whole), rtol=0, atol=0)


@EVERY
def test_it_prints_its_settings(kind):
    text = repr(build(kind, loss_weight=0.125))
    assert text.startswith(f'{kind.__name__}(') and 'loss_weight=0.125' in text
    assert 'probing' not in text


@AS_THEY_ARE
def test_it_can_be_copied_and_saved(case):
    pair = scores()
    loss = case().double()
    want = value(loss, *pair)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert_close(value(other, *pair), want)


@EVERY_CASE
def test_a_step_leaves_no_graph_behind(case):
    """A graph would keep the student's activations, and nothing with one is copied."""
    student, teacher = scores()
    loss = case().double()
    result = value(loss, student.requires_grad_(), teacher)
    assert result.requires_grad
    copy.deepcopy(loss)
    pickle.dumps(loss)


# The interface


@EVERY
def test_mmrazors_distiller_can_read_the_signature(kind):
    """And one loss of features can replace another in a config."""
    parameters = inspect.signature(kind.forward).parameters
    assert {p.kind for p in parameters.values()} == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    names = list(parameters)
    assert names[:3] == ['self', 'preds_S', 'preds_T']
    if issubclass(kind, FeatureLoss):
        assert names[3:] == ['gt_labels', 'head_weight', 'head_bias']


@EVERY
def test_a_wrong_number_is_named(kind):
    """Each setting with a number for a default is tried."""
    numbers = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if isinstance(parameter.default, float)
    ] + ['loss_weight']
    for name in numbers:
        too_large = -1.1e6 if name.startswith('lambda') else 1.1e6
        for wrong in (math.inf, math.nan, too_large, '4', None, True):
            with pytest.raises(ValueError, match=f'{name}.*{wrong!r}'):
                build(kind, **{name: wrong})
        if name in POSITIVE:
            with pytest.raises(ValueError, match=f'{name} must be a positive.*got 0'):
                build(kind, **{name: 0})
            with pytest.raises(ValueError, match=f'{name} must be a positive.*1e-45'):
                build(kind, **{name: 1e-45})
        elif name not in ('init', 'lambda_max', 'lambda_min'):
            build(kind, **{name: 0})
    match = rf'loss_weight must be .*, got -1\.0.* {kind.__name__}'
    with pytest.raises(ValueError, match=match):
        build(kind, loss_weight=-1.0)


@AS_THEY_ARE
def test_what_is_no_tensor_is_refused(case):
    """A tuple, as a neck returns one, says what to write."""
    loss = case()
    fed = arguments(loss, *scores())
    for name in ('preds_S', 'preds_T'):
        wrong = fed[name]
        if isinstance(wrong, list):
            wrong = [(x,) for x in wrong]
        for data, match in (
            (
                wrong if isinstance(wrong, list) else (wrong,),
                'float tensor.*data_idx=0',
            ),
            (None, 'float tensor|list of maps'),
            (torch.ones(N, C, dtype=torch.int64), 'float tensor|list of maps'),
        ):
            loss = case()  # because a first step may be looked at more closely
            loss.indices = torch.arange(N)
            with pytest.raises(TypeError, match=f'{name}.*({match})'):
                loss(**{**fed, name: data})


@AS_THEY_ARE
def test_a_student_and_a_teacher_that_do_not_fit_are_named(case):
    student, teacher = scores()
    for ours, theirs in ((student, teacher[:, :4]), (student[:4], teacher)):
        loss = case()
        fed = arguments(loss, student, teacher)
        fed |= arguments(loss, ours, ours) | dict(
            preds_T=arguments(loss, theirs, theirs)['preds_T']
        )
        loss.indices = torch.arange(len(ours))
        with pytest.raises(ValueError, match=r'preds_|channels|width'):
            loss(**fed)


# Labels


@LABELLED
@pytest.mark.parametrize(
    'dtype', [torch.float32, torch.float16, torch.int64, torch.bool, torch.uint8]
)
def test_rows_of_label_scores_count_as_their_argmax(kind, dtype):
    """mmpretrain gives int64 rows for the batches that it does not mix."""
    pair, labels = scores(), torch.arange(N) % C
    want = labelled(kind, pair, labels)
    rows = torch.nn.functional.one_hot(labels, C)
    if dtype.is_floating_point:
        rows = 0.7 * rows + 0.3 * rows.roll(1, 0)
    assert_close(labelled(kind, pair, rows.to(dtype)), want, rtol=0, atol=0)
    if not dtype.is_floating_point and dtype != torch.bool:
        got = labelled(kind, pair, labels.to(dtype))
        assert_close(got, want, rtol=0, atol=0)


HOT = torch.eye(C)[torch.arange(N) % C]


@LABELLED
@pytest.mark.parametrize(
    ('labels', 'error', 'message'),
    [
        (HOT[:, :4], ValueError, r'gt_labels.*\(6, 4\).*\(6, 5\).*num_classes'),
        (torch.zeros(4).long(), ValueError, r'\(4,\).*one class index per sample'),
        (torch.zeros(N, 1, 1).long(), ValueError, r'gt_labels.*\(6, 1, 1\)'),
        (torch.zeros(N), TypeError, r'integer class indices.*torch\.float32'),
        (torch.zeros(N) > 0, TypeError, r'integer class indices.*torch\.bool'),
        (torch.full((N,), 5), ValueError, r'holds 5, .*5 classes.*num_classes'),
        (torch.arange(N) - 1, ValueError, r'holds -1, .*number labels from 0'),
        (0 * HOT, ValueError, r'mark no class, which are not of class 0.*=True'),
        (
            (HOT + HOT.roll(1, 1)).long(),
            ValueError,
            r"several classes.*type='CAKDLogitLoss' and multi_label=True|"
            'several classes.*set multi_label=True',
        ),
    ],
)
def test_wrong_labels_are_named(kind, labels, error, message):
    with pytest.raises(error, match=message):
        labelled(kind, scores(), labels)


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
        assert source in ('student', 'teacher', 'student_row_classes', 'classes')


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
