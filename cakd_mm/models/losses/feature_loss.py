"""The base class of losses between two features: layout, standardisation, checks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...utils.errors import describe
from ..checks import check_float_tensor
from ..connector_names import how_to_fit
from ..layout import GRANULARITIES, channel_dim, pool, to_rows
from ..statistics import RunningNorm, check_momentum
from .base import DistillLoss


class FeatureLoss(DistillLoss):
    """Base of the losses between a student's and a teacher's feature.

    A subclass turns rows into the loss in :meth:`compare`, where it may call
    :meth:`log_terms`. Features up to 1e12 give finite numbers, standardised or not, see
    :class:`DistillLoss`.

    Args:
        granularity (str): What the elements of a row are: ``'pooled'`` (the
            channels of a vector, of each token, or of a map's average),
            ``'channel'`` (the channels at each position of a map),
            ``'spatial'`` (the positions of each channel) or ``'flat'`` (the
            whole map). Defaults to ``'pooled'``.
        standardize (bool): Whether to subtract the teacher's running mean of every
            channel from both features and to divide them by its deviation. Defaults
            to False.
        channels (int, optional): Channels of the teacher's feature; needed by
            ``standardize``, checked if given.
        momentum (float): Least weight of a batch in running statistics, see
            :class:`RunningMean`. Defaults to 0.01.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.

    Raises:
        ValueError: a setting is out of range, or ``standardize`` lacks
            ``channels``.
    """

    def __init__(
        self,
        granularity: str = 'pooled',
        standardize: bool = False,
        channels: int | None = None,
        momentum: float = 0.01,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        if granularity not in GRANULARITIES:
            raise ValueError(
                f'granularity must be one of {GRANULARITIES}, got {granularity!r}: '
                f'set it in the config of {type(self).__name__}.'
            )
        check_momentum(momentum)
        self.granularity = granularity
        self.channels = channels
        self.momentum = momentum
        self.norm: RunningNorm | None = None
        if standardize:
            if channels is None:
                raise ValueError(
                    "standardize=True needs channels, the width of the teacher's "
                    'feature, to keep its statistics in checkpoints: write '
                    'channels=64, say.'
                )
            self.norm = RunningNorm(channels, momentum)

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Ask for the teacher's channels, which standardisation needs."""
        return {'channels': 'teacher'} if cfg.get('standardize') else {}

    @property
    def any_size(self) -> bool:
        """Whether maps are averaged to vectors."""
        return self.granularity == 'pooled'

    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Every feature loss takes the same arguments, so that one can replace
        another in a config; not every loss uses all of them.

        Args:
            preds_S (Tensor): The student's feature, brought to the teacher's
                shape by a connector: (N, C), (N, L, C) or (N, C, H, W).
            preds_T (Tensor): The teacher's, of the same shape; no gradient.
            gt_labels (Tensor, optional): Classes (N,) or rows of label scores
                (N, K), for scorers that need them.
            head_weight (Tensor, optional): Weight of the teacher's classifier,
                (K, C), for scorers that need it and for the ``kept_*`` terms.
            head_bias (Tensor, optional): Its bias, (K,).

        Raises:
            TypeError: a feature is no float tensor.
            ValueError: shapes differ or do not fit ``granularity``.
        """
        student, teacher = self._checked(preds_S, preds_T)
        # Autocast is off, because scorers would compute in half precision.
        with torch.autocast(teacher.device.type, enabled=False):
            loss = self.compare(
                *self._rows(student, teacher),
                teacher,
                gt_labels=gt_labels,
                head_weight=head_weight,
                head_bias=head_bias,
            )
        if loss.dim():
            raise ValueError(
                f'{type(self).__name__}.compare returned a tensor of shape '
                f'{tuple(loss.shape)}: return self.mean(values) of one value per row.'
            )
        return loss

    def _checked(self, preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
        """Check both features; return them in the precision to compute in."""
        student = self._prepared('preds_S', preds_S)
        teacher = self._prepared('preds_T', preds_T).detach()
        self.check_teacher(preds_T)
        width = teacher.shape[channel_dim(teacher)]
        if self.channels not in (None, width):
            raise ValueError(
                describe(
                    'channels',
                    self.channels,
                    f"The teacher's feature has {width}: {tuple(preds_T.shape)}.",
                    'Correct the number, or tap another module.',
                )
            )
        if student.shape != teacher.shape:
            # A map is a vector by now if the loss pools it.
            ours = preds_S.dim() if teacher.dim() > 2 else student.dim()
            raise ValueError(
                f'preds_S has shape {tuple(preds_S.shape)} and preds_T '
                f'{tuple(preds_T.shape)}: {how_to_fit(ours, teacher.dim())}.'
            )
        return student, teacher

    def _prepared(self, name: str, feature: Tensor) -> Tensor:
        """Return a feature in the precision to compute in, averaged if pooled."""
        check_float_tensor(name, feature)
        feature = feature if feature.dtype == torch.float64 else feature.float()
        return pool(feature) if self.granularity == 'pooled' else feature

    def norm_batches(
        self, inputs: Mapping[str, Any]
    ) -> list[tuple[RunningNorm, Tensor]]:
        """Return the teacher's rows for its standardisation."""
        if self.norm is None or not self.training:
            return []
        teacher = self._prepared('preds_T', inputs['preds_T'])
        return [(self.norm, _channel_rows(teacher))]

    def _rows(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise both features if asked to, and lay them out in rows."""
        if self.norm is not None:
            dim = channel_dim(teacher)
            if self.training:
                self.norm.update(_channel_rows(teacher))
            student, teacher = self.norm(student, dim), self.norm(teacher, dim)
        return to_rows(student, self.granularity), to_rows(teacher, self.granularity)

    def check_teacher(self, preds_T: Tensor) -> None:
        """Raise if the teacher's feature, as it was tapped, does not suit the loss."""

    def compare(
        self,
        rows_S: Tensor,
        rows_T: Tensor,
        feature_T: Tensor,
        *,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, ``loss_weight`` included, a scalar.

        ``rows_S`` and ``rows_T`` are (R, E); ``feature_T`` is the teacher's feature
        before standardisation and layout. All others are as in :meth:`forward`.
        """
        raise NotImplementedError

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of one value per row, (R,), times ``loss_weight``."""
        return values.sum() * (self.loss_weight / max(len(values), 1))


def _channel_rows(feature: Tensor) -> Tensor:
    """Lay a feature out with the channels of one position per row."""
    return feature.movedim(channel_dim(feature), -1).flatten(0, -2)
