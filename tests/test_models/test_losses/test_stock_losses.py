"""What mmrazor's own losses give for the stored numbers: use them, or not.

KLDivergence and DISTLoss are the methods' own. This package has KDLoss and
DISTLogitLoss beside them for what they lack, logit standardisation and terms. DKDLoss
is not DKD; what fails here is asserted, to show when it is mended.
"""

import goldens
import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
# How the stored numbers call the cases that underflow, by the precision that fails.
FAILS = {
    torch.float64: {'x_inf64', 'x_maskfail', 'x_nan64'},
    torch.float32: {
        'x_T4scale300',
        'x_inf32',
        'x_inf64',
        'x_maskfail',
        'x_nan32',
        'x_nan64',
    },
}


def run(entry, dtype, config, names=('preds_S', 'preds_T'), labels=False):
    """Return the loss of an entry and the student's gradient."""
    golden = goldens.load(entry)
    leaf = golden['logits_student'].to(dtype).requires_grad_()
    teacher = golden['logits_teacher'].to(dtype)
    arguments = dict(zip(names, (leaf, teacher), strict=True))
    if labels:
        arguments['gt_labels'] = golden['labels']
    value = MODELS.build(config)(**arguments)
    value.backward()
    return value.detach(), leaf.grad


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('KD'))
def test_kl_divergence_is_kd(entry, dtype):
    config = dict(type='KLDivergence', tau=entry['hparams']['T'])
    goldens.assert_matches(entry, *run(entry, dtype, config))


@pytest.mark.parametrize(
    ('kind', 'shape', 'is_mean'),
    [('DISTLoss', (8, 5), False), ('PKDLoss', (8, 5, 3, 3), False)]
    + [('KLDivergence', (8, 5), True), ('ATLoss', (8, 5, 3, 3), True)],
)
def test_which_losses_differ_on_two_ranks(kind, shape, is_mean):
    """docs/guides/several_machines.md names those that compare images of a batch."""
    draw = torch.Generator().manual_seed(0)
    pair = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
    loss = MODELS.build(dict(type=kind))
    halves = [loss(*pair[:, rank::2]) for rank in range(2)]
    is_close = torch.allclose(sum(halves) / 2, loss(*pair), rtol=1e-6)
    assert is_close == is_mean


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('DIST'))
def test_dist_loss_is_dist(entry, dtype):
    hparams = entry['hparams']
    config = dict(
        type='DISTLoss',
        tau=hparams['tau'],
        inter_loss_weight=hparams['beta'],
        intra_loss_weight=hparams['gamma'],
    )
    found = run(entry, dtype, config, ('logits_S', 'logits_T'))
    goldens.assert_matches(entry, *found)


def stock_dkd(entry):
    hparams = entry['hparams']
    return dict(
        type='DKDLoss',
        tau=hparams['T'],
        alpha=hparams['alpha'],
        beta=hparams['beta'],
        reduction='batchmean',
    )


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('DKD'))
def test_dkd_loss_fails_where_a_probability_underflows(entry, dtype):
    value, grad = run(entry, dtype, stock_dkd(entry), labels=True)
    if entry['case'] in FAILS[dtype]:
        assert not value.isfinite()
        assert not grad.isfinite().all()
    else:
        goldens.assert_matches(entry, value, grad)


@pytest.fixture
def problem():
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=draw).unbind()
    return student, teacher, torch.tensor([4, 0, 2, 2, 1, 3])


@pytest.mark.parametrize('reduction', ['mean', 'none'])
def test_dkd_loss_takes_any_other_reduction_for_a_sum(problem, reduction):
    values = [
        MODELS.build(dict(type='DKDLoss', reduction=name))(*problem)
        for name in (reduction, 'sum', 'batchmean')
    ]
    assert_close(values[0], values[1], rtol=0, atol=0)
    assert_close(values[1], 6 * values[2])


def test_dkd_loss_lets_a_gradient_of_nan_through_to_the_teacher(problem):
    student, teacher, labels = problem
    teacher.requires_grad_()
    MODELS.build(dict(type='DKDLoss'))(student, teacher, labels).backward()
    assert teacher.grad.isnan().all()
