"""What every loss between two features shares: layout, standardisation, checks."""

import torch
from torch import Tensor, nn

from ...utils.errors import describe
from ..statistics import RunningNorm
from .checks import check_number
from .functional import batch_mean
from .layout import GRANULARITIES, channel_dim, pool, to_rows


class FeatureLoss(nn.Module):
    """Base of the losses between a student's and a teacher's feature.

    A subclass turns rows into the loss in :meth:`compare` and puts what is worth
    seeing into ``self.seen`` (name -> tensor, of which the log shows the
    mean).

    Args:
        granularity (str): What the elements of a row are: ``'pooled'`` (the
            channels of a vector, of each token, or of a map's average),
            ``'channel'`` (the channels at each position of a map),
            ``'spatial'`` (the positions of each channel) or ``'flat'`` (the
            whole map). Defaults to ``'pooled'``.
        standardize (bool): Subtract the teacher's running mean of every channel
            from both features and divide by its deviation. Defaults to False.
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
        super().__init__()
        if granularity not in GRANULARITIES:
            raise ValueError(
                f'granularity must be one of {GRANULARITIES}, got {granularity!r}: '
                f'set it in the config of {type(self).__name__}.'
            )
        if standardize and channels is None:
            raise ValueError(
                "standardize=True needs channels, the width of the teacher's "
                'feature, to keep its statistics in checkpoints: write channels=64, '
                'say.'
            )
        check_number(self, 'loss_weight', loss_weight)
        self.granularity = granularity
        self.channels = channels
        self.norm = RunningNorm(channels, momentum) if standardize else None
        self.momentum = momentum
        self.loss_weight = loss_weight
        self.seen: dict[str, Tensor] = {}

    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Every feature loss takes the same arguments, so that one can replace
        another in a config; the controls look at the features only.

        Args:
            preds_S (Tensor): The student's feature, brought to the teacher's
                shape by a connector: (N, C), (N, L, C) or (N, C, H, W).
            preds_T (Tensor): The teacher's, of the same shape; no gradient.
            gt_labels (Tensor, optional): Classes (N,) or rows of label scores
                (N, K), for scorers that need them.
            head_weight (Tensor, optional): Weight of the teacher's classifier,
                (K, C), for scorers that need it and for the ``kept_*`` terms.
            head_bias (Tensor, optional): Its bias, (K,).

        Returns:
            Tensor: The loss, a float32 (or float64) scalar.

        Raises:
            TypeError: a feature is no float tensor.
            ValueError: shapes differ or do not fit ``granularity``.
        """
        preds_S, raw = self._checked(preds_S, preds_T)
        # Autocast would score and project the teacher in half precision.
        with torch.autocast(raw.device.type, enabled=False):
            preds_T = raw
            if self.norm is not None:
                dim = channel_dim(raw)
                if self.training:
                    self.norm.update(raw.movedim(dim, -1).flatten(0, -2))
                preds_S, preds_T = self.norm(preds_S, dim), self.norm(raw, dim)
            rows_S, rows_T = (to_rows(x, self.granularity) for x in (preds_S, preds_T))
            loss = self.compare(
                rows_S,
                rows_T,
                raw,
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
        self.inspect(preds_T)
        features = []
        for name, feature in (('preds_S', preds_S), ('preds_T', preds_T)):
            if not isinstance(feature, Tensor) or not feature.is_floating_point():
                kind = getattr(feature, 'dtype', type(feature).__name__)
                raise TypeError(
                    f'{name} must be a float tensor, got {kind}: tap one tensor; of a '
                    'module that returns a tuple write data_idx=0 in '
                    'loss_forward_mappings.'
                )
            double = feature.dtype == torch.float64
            feature = feature if double else feature.float()
            features.append(pool(feature) if self.granularity == 'pooled' else feature)
        student, teacher = features
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
            raise ValueError(
                f'preds_S has shape {tuple(preds_S.shape)} and preds_T '
                f'{tuple(preds_T.shape)}: put a connector to the width '
                f"({width}) and size of the teacher's feature on the student's "
                "(model.distiller.connectors, and connector='...' in "
                'loss_forward_mappings).'
            )
        return student, teacher.detach()

    def inspect(self, preds_T: Tensor) -> None:
        """Look at the teacher's feature as it was tapped, before anything else."""

    @property
    def terms(self) -> dict[str, Tensor]:
        """The means of what was seen in the last step, detached scalars."""
        return {name: batch_mean(value.detach()) for name, value in self.seen.items()}

    def compare(
        self, rows_S: Tensor, rows_T: Tensor, raw: Tensor, **context: Tensor | None
    ) -> Tensor:
        """Return the loss, ``loss_weight`` included: two (R, E) -> a scalar.

        ``raw`` is the teacher's feature before standardisation and layout;
        ``context`` holds the optional arguments of :meth:`forward`.
        """
        raise NotImplementedError

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of one value per row, (R,), times ``loss_weight``."""
        return values.sum() * (self.loss_weight / max(len(values), 1))

    def extra_repr(self) -> str:
        """Show the settings in a printed model."""
        return f'granularity={self.granularity!r}, loss_weight={self.loss_weight}'
