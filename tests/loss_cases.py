"""Small losses of every registered kind, and what they are fed."""

import inspect
from typing import NamedTuple

import pytest
import torch
from mmrazor.registry import MODELS
from torch import Tensor

from cakd_mm.models.losses import DenseLoss, LevelLoss
from cakd_mm.models.losses.base import DistillLoss
from cakd_mm.models.losses.feature_lists import FeatureListLoss
from cakd_mm.models.losses.logit_loss import LogitLoss
from cakd_mm.models.losses.nested_loss import arguments_of

LOSSES = sorted(
    {
        kind
        for kind in MODELS.module_dict.values()
        if isinstance(kind, type) and issubclass(kind, DistillLoss)
    },
    key=lambda kind: kind.__name__,
)
N, C = 6, 5
# What a loss without a default for an argument is built with.
REQUIRED = dict(channels_S=C, channels_T=C, loss=dict(type='KDLoss'), levels=2)
SMALL = dict(negatives=4, feat_dim=8, top_classes=3)
# A net of the last epochs has a lambda other than 0.
EPOCH = 9
# Settings that lead another way through a loss, beside its defaults.
OF_FEATURES: list[dict] = [
    dict(granularity=granularity) for granularity in ('channel', 'spatial', 'flat')
] + [dict(standardize=True, channels=C)]
SHARES = dict(bcd=0.2, scd=0.5, wcd=0.3)
VARIANTS: dict[str, list[dict]] = {
    'CAKDFeatureLoss': [
        *OF_FEATURES,
        dict(OF_FEATURES[-1], gamma='adaptive'),
        dict(gradient_shares=SHARES),
    ],
    'CAKDLogitLoss': [
        dict(multi_label=True),
        dict(strong_classes=3, gradient_shares=SHARES),
        dict(strong_mass=0.7),
    ],
    'CMKDLoss': [dict(difficulty=0.4, regularization=0.7)],
    'CTKDLoss': [dict(instance_wise=True, num_classes=C)],
    'DenseLoss': [
        dict(scores_at_once=7 * C),
        dict(loss=dict(type='CAKDLogitLoss'), ignore_index=None),
        dict(loss=dict(type='SigmoidKDLoss'), num_classes=1),
    ],
    'FeatureKLLoss': OF_FEATURES,
    'FeatureSquaredLoss': OF_FEATURES,
    'LevelLoss': [
        dict(loss=dict(type='CAKDFeatureLoss', granularity='spatial')),
        dict(
            loss=[
                dict(type='DenseLoss', loss=dict(type='SigmoidKDLoss')),
                dict(type='FeatureKLLoss'),
            ],
            weights=[2.0, 0.5],
        ),
    ],
    'SigmoidKDLoss': [dict(beta=3.0, gamma=0.5)],
    'WTTMLoss': [dict(weighted=False)],
    'WKDFeatureLoss': [dict(grid=2, decay_from=4, decay_to=20)],
    'WKDLogitLoss': [dict(iterations=2, decay_from=4, decay_to=20)],
}


class Case(NamedTuple):
    """A kind of loss and settings of it."""

    kind: type[DistillLoss]
    settings: dict

    def __call__(self, **settings) -> DistillLoss:
        return build(self.kind, **(self.settings | settings))


CASES = [
    pytest.param(
        Case(kind, given),
        id='-'.join(
            [
                kind.__name__,
                *(
                    f'{k}={v}' if isinstance(v, bool) else str(v)
                    for k, v in given.items()
                    if v != C
                ),
            ]
        ),
    )
    for kind in LOSSES
    for given in (
        {},
        *VARIANTS.get(kind.__name__, []),
        *([dict(standardize=True)] if issubclass(kind, LogitLoss) else []),
    )
]
SCORERS = [
    pytest.param(
        Case(MODELS.get('CAKDFeatureLoss'), dict(scorer=dict(type=name, **given))),
        id=f'CAKDFeatureLoss-{name}',
    )
    for name, given in (
        ('ClassScorer', dict(channels=C, num_classes=C)),
        ('ClassifierScorer', {}),
        ('RandomScorer', {}),
        ('ScoringNetwork', dict(channels=C, num_classes=C)),
    )
]


def build(kind, **settings):
    """Build a small loss of a kind, ready to be called once."""
    known = inspect.signature(kind).parameters
    options = {k: v for k, v in {**REQUIRED, **SMALL}.items() if k in known}
    torch.manual_seed(0)
    loss = kind(**{**options, **settings}).eval()
    for parameter in loss.parameters():  # some begin with zeros
        parameter.data += 0.3 * torch.randn_like(parameter)
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


def arguments(loss, student, teacher, rows=None):
    """Return what ``forward`` takes without a default, made of two score matrices.

    ``rows`` are the samples' numbers, of which the labels follow.
    """
    if isinstance(loss, LevelLoss):
        of_levels = [arguments(x, student, teacher, rows) for x in loss.losses]
        names = of_levels[0].keys()
        return {name: [fed[name] for fed in of_levels] for name in names}
    rows = torch.arange(len(student)) if rows is None else rows
    labels = (rows % C).to(student.device)
    if isinstance(loss, DenseLoss):
        student, teacher = as_map(student), as_map(teacher)
        places = torch.tensor([[0, 1], [2, 3]], device=labels.device)
        labels = (labels[:, None, None] + places) % C
    if getattr(loss, 'multi_label', False):
        classes = torch.arange(C, device=student.device)
        labels = (labels[:, None] + classes) % 3 == 0
    if getattr(loss, 'granularity', 'pooled') != 'pooled':
        student, teacher = as_map(student), as_map(teacher)
    if getattr(loss, 'views', 1) == 2:
        student, teacher = both_views(student), both_views(teacher)
    made: dict = dict(preds_S=student, preds_T=teacher, gt_labels=labels)
    if isinstance(loss, FeatureListLoss):
        weight, bias = (
            torch.linspace(*ends, C, device=student.device)
            for ends in ((0.5, 1.5), (-1, 0.3))
        )
        made |= dict(
            preds_S=[as_map(student), student],
            preds_T=[as_map(teacher), teacher],
            bn_weights=[weight] * 2,
            bn_biases=[bias] * 2,
        )
    weight = torch.linspace(-1, 2, C * C, device=student.device).view(C, C)
    made |= dict(head_weight=weight)
    forward = inspect.signature(type(loss).forward).parameters
    needed = [
        name
        for name, parameter in forward.items()
        if name != 'self' and parameter.default is parameter.empty
    ]
    needed += getattr(getattr(loss, 'scorer', None), 'needs', ())
    if isinstance(loss, DenseLoss) and arguments_of(loss.loss).get('gt_labels'):
        needed.append('gt_labels')
    assert set(needed) <= made.keys(), f'say here what {type(loss).__name__} is fed'
    return {name: made[name] for name in needed}


def both_views(scores: Tensor) -> Tensor:
    """Return scores, (rows, C), and behind them those of another view of each row."""
    return torch.cat((scores, scores.roll(1, -1) / 2))


def as_map(rows: Tensor) -> Tensor:
    """Return (rows, C) as maps (rows, C, 2, 2) that are not constant."""
    return rows[:, :, None, None] * torch.tensor([[0.5, -1.0], [2.0, 1.0]]).to(rows)


def value(loss, student, teacher, rows=None):
    """Call a loss on two matrices of scores."""
    if loss.needs_dataset:
        loss.indices = torch.arange(len(student))
    return loss(**arguments(loss, student, teacher, rows))
