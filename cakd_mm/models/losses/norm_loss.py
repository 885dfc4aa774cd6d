"""NORM: several segments of a student's feature against one of the teacher."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_float_tensor, check_number, is_count
from ..term_axis import TermAxis
from .epoch_loss import EpochLoss
from .functional import batch_mean


@MODELS.register_module()
class NORMLoss(EpochLoss):
    r"""Compare each segment of a wide feature with the whole feature of the teacher.

    "NORM: Knowledge Distillation via N-to-One Representation Matching", arXiv
    2305.13803. The student's feature has N segments, each as wide as the teacher's.
    With :math:`F^S_n` the n-th of them

    .. math:: L = \sum_{n=1}^{N} mean\left((F^S_n - F^T)^2\right)

    where the mean is over the batch, the channels and the positions. The larger of two
    maps is brought to the size of the smaller one by a maximum over its positions, as
    in the public code. The segments are those of :class:`NORMNeck`. A feature without
    segments is one.

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
        self.needs_epoch = bool(self.factors)

    @property
    def factor(self) -> float:
        """The factor of this epoch.

        Raises:
            ValueError: there are factors, and a step of training has no epoch.
        """
        epoch = self.epochs_begun - 1
        begun = [factor for start, factor in self.factors if start <= epoch]
        return begun[-1] if begun else 1.0

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's segments, (B, N, C, H, W) or (B, N, C); or
                one feature of the form of the teacher's.
            preds_T (Tensor): The teacher's, (B, C, H', W') or (B, C); no gradient.

        Raises:
            TypeError: a feature is no float tensor.
            ValueError: shapes do not fit, or a step of training has no epoch for
                the factors.
        """
        segments, teacher = _checked_features(preds_S, preds_T)
        if segments.shape[3:] != teacher.shape[2:]:
            sizes = zip(segments.shape[3:], teacher.shape[2:], strict=True)
            size = [min(pair) for pair in sizes]
            rows = F.adaptive_max_pool2d(segments.flatten(0, 1), size)
            segments = rows.unflatten(0, segments.shape[:2])
            teacher = F.adaptive_max_pool2d(teacher, size)
        gaps = (segments - teacher.unsqueeze(1)).square()
        sums = gaps.flatten(2).mean(2).sum(1)
        self.log_terms(segments=sums)
        return self.loss_weight * self.factor * batch_mean(sums)


def _checked_features(preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
    """Check both features; return them in the precision to compute in.

    The student's come as segments, (B, N, C) or (B, N, C, H, W).
    """
    for name, feature in (('preds_S', preds_S), ('preds_T', preds_T)):
        check_float_tensor(name, feature)
    segments = preds_S.unsqueeze(1) if preds_S.dim() == preds_T.dim() else preds_S
    ours, theirs = segments.shape, preds_T.shape
    if len(theirs) not in (2, 4) or len(ours) != len(theirs) + 1:
        raise ValueError(
            f'preds_S has shape {tuple(preds_S.shape)} and preds_T {tuple(theirs)}: '
            "tap the segments of a student's NORMNeck, source='neck.segments', and the "
            "teacher's last map."
        )
    if (ours[0], ours[2]) != (theirs[0], theirs[1]):
        raise ValueError(
            f'preds_S has shape {tuple(preds_S.shape)}, with segments of {ours[2]} '
            f'channels, and preds_T {tuple(theirs)}: write teacher_channels='
            f'{theirs[1]} in model.architecture.neck, and tap the same images.'
        )
    student, teacher = (
        x if x.dtype == torch.float64 else x.float()
        for x in (segments, preds_T.detach())
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
