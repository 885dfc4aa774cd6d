"""NORM: several segments of a student's feature against one of the teacher."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from ...utils.errors import describe
from ..checks import check_float_tensor, check_number, is_count
from ..term_axis import TermAxis
from .base import DistillLoss
from .functional import batch_mean


@MODELS.register_module()
class NORMLoss(DistillLoss):
    r"""Compare each segment of a wide feature with the whole feature of the teacher.

    "NORM: Knowledge Distillation via N-to-One Representation Matching", arXiv
    2305.13803. The student's feature has N times the teacher's C channels. With
    :math:`F^S_n` its n-th C channels

    .. math:: L = \sum_{n=1}^{N} mean\left((F^S_n - F^T)^2\right)

    where the mean is over the batch, the channels and the positions. The larger of two
    maps is brought to the size of the smaller one by a maximum over its positions, as
    in the public code. The wide feature is that of :class:`NORMNeck`.

    ``terms`` holds the last step's ``segments``, the sum above.

    Args:
        factors (Sequence[tuple[int, float]]): Pairs of an epoch, counted from 0, and
            the factor of the loss from then on, in the order of the epochs. Before the
            first one the factor is 1. Defaults to (), always 1.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.

    Raises:
        ValueError: a number is out of range, or the epochs are in disorder.
    """

    term_labels = {
        'segments': (
            TermAxis.SQUARED,
            'segments: mean over the elements, summed over the segments',
        )
    }

    def __init__(
        self, factors: Sequence[tuple[int, float]] = (), loss_weight: float = 1.0
    ) -> None:
        super().__init__(loss_weight)
        self.factors = _checked_factors(self, factors)
        self.factor = 1.0
        self.needs_epoch = bool(self.factors)

    def set_epoch(self, epoch: int) -> None:
        """Take the factor of the epoch that begins, counted from 0."""
        begun = [factor for start, factor in self.factors if start <= epoch]
        self.factor = begun[-1] if begun else 1.0

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's feature, (B, N C) or (B, N C, H, W).
            preds_T (Tensor): The teacher's, (B, C) or (B, C, H', W'); no gradient.

        Raises:
            TypeError: a feature is no float tensor.
            ValueError: shapes do not fit.
        """
        student, teacher = _checked_features(preds_S, preds_T)
        if student.shape[2:] != teacher.shape[2:]:
            sizes = zip(student.shape[2:], teacher.shape[2:], strict=True)
            size = [min(pair) for pair in sizes]
            student, teacher = (
                F.adaptive_max_pool2d(x, size) for x in (student, teacher)
            )
        segments = student.unflatten(1, (-1, teacher.shape[1]))
        gaps = (segments - teacher.unsqueeze(1)).square()
        sums = gaps.flatten(2).mean(2).sum(1)
        self.log_terms(segments=sums)
        return self.loss_weight * self.factor * batch_mean(sums)


def _checked_features(preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
    """Check both features; return them in the precision to compute in."""
    for name, feature in (('preds_S', preds_S), ('preds_T', preds_T)):
        check_float_tensor(name, feature)
        if feature.dim() not in (2, 4):
            raise ValueError(
                f'{name} has shape {tuple(feature.shape)}, expected (N, C) or '
                '(N, C, H, W): tap the last map of a net, or what it pools.'
            )
    ours, theirs = preds_S.shape, preds_T.shape
    if len(ours) != len(theirs) or ours[0] != theirs[0]:
        raise ValueError(
            f'preds_S has shape {tuple(ours)} and preds_T {tuple(theirs)}: tap a map '
            'of both nets for the same images, or a vector of both.'
        )
    if ours[1] < theirs[1] or ours[1] % theirs[1]:
        key, problem = 'teacher_channels', f'The teacher has {theirs[1]} channels.'
        problem += f' The {ours[1]} of the student are no multiple of them.'
        remedy = f'Write model.architecture.neck=dict(teacher_channels={theirs[1]}).'
        raise ValueError(describe(key, tuple(ours), problem, remedy))
    student, teacher = (
        x if x.is_floating_point() and x.element_size() > 4 else x.float()
        for x in (preds_S, preds_T.detach())
    )
    return student, teacher


def _checked_factors(
    owner: NORMLoss, factors: Sequence[tuple[int, float]]
) -> list[tuple[int, float]]:
    """Return pairs of an epoch and a factor that are in order."""
    fits = _is_list(factors) and all(
        _is_list(pair) and len(pair) == 2 and is_count(pair[0], least=0)
        for pair in factors
    )
    epochs = [epoch for epoch, _ in factors] if fits else []
    if not fits or epochs != sorted(set(epochs)):
        raise ValueError(
            f'factors must be pairs of an epoch, from 0 and rising, and a factor, got '
            f'{factors!r}: write factors=[(0, 0.1), (20, 1.0)], say, in the config of '
            f'{type(owner).__name__}.'
        )
    for _, factor in factors:
        check_number(owner, 'factors', factor)
    return [(epoch, factor) for epoch, factor in factors]


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))
