"""Running statistics, which are equal on all ranks and saved in checkpoints."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather, all_reduce, get_world_size
from torch import Tensor, nn

from ..utils.errors import describe
from .checks import is_number

# Least variance of a channel, as a share of the mean over the channels.
LEAST_SHARE = 0.01


class RunningMean(nn.Module):
    """The mean over batches, which forgets old batches in the long run.

    A new batch gets the weight ``max(1 / batches, momentum)``. The first
    ``1 / momentum`` batches therefore give their plain mean, and later the mean
    becomes an exponential one.

    Args:
        shape (tuple[int, ...]): Shape of the quantity. Defaults to a scalar.
        momentum (float): Least weight of a new batch; 0 for the plain mean of
            all. Defaults to 0.01.

    Raises:
        ValueError: ``momentum`` is not in [0, 1].
    """

    batches: Tensor
    value: Tensor

    def __init__(self, shape: tuple[int, ...] = (), momentum: float = 0.01) -> None:
        super().__init__()
        check_momentum(momentum)
        self.momentum = momentum
        self.register_buffer('batches', torch.zeros(()))
        self.register_buffer('value', torch.zeros(shape))

    def update(self, batch: Tensor) -> Tensor:
        """Take in a batch's value, averaged over ranks; return the mean so far."""
        update_means([(self, batch)])
        return self.value


class RunningNorm(nn.Module):
    """Standardises features by running statistics of their channels.

    Unlike in BatchNorm, the batch is normalised by the running statistics in
    training too, so that student and teacher are measured with the same rule.

    Args:
        channels (int): Channels of the feature.
        momentum (float): As in :class:`RunningMean`. Defaults to 0.01.
        eps (float): Added to the variance. Defaults to 1e-5.

    Raises:
        ValueError: ``momentum`` is not in [0, 1].
    """

    batches: Tensor
    mean: Tensor
    var: Tensor

    def __init__(
        self, channels: int, momentum: float = 0.01, eps: float = 1e-5
    ) -> None:
        super().__init__()
        check_momentum(momentum)
        self.momentum = momentum
        self.eps = eps
        self.register_buffer('batches', torch.zeros(()))
        self.register_buffer('mean', torch.zeros(channels))
        self.register_buffer('var', torch.ones(channels))
        # Mean and variance of the next batch, if ranks have shared them already.
        self._shared: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Take in the rows (M, C) of the batch on all ranks; give those of this one.

        Several ranks exchange them now, unless :func:`share_rows` has done so.
        """
        if get_world_size() == 1:
            if not len(rows):
                return
            _, mean, var = self._moments(rows)
        else:
            mean, var = self._shared or _over_ranks([(self, rows)])[0]
            self._shared = None
        weight = _weight(self)
        # The variances are added, because the difference of a mean of squares and a
        # squared mean would be lost to rounding.
        gap = mean - self.mean
        change = (var - self.var) * weight + gap.square() * (weight * (1 - weight))
        self.var.add_(change)
        self.mean.add_(gap * weight)

    def _moments(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the number of rows, their mean and their variance."""
        rows = rows.detach().to(self.mean.dtype)
        var, mean = torch.var_mean(rows, 0, correction=0)
        return mean.new_full((1,), len(rows)), mean, var

    def forward(self, x: Tensor, dim: int = -1) -> Tensor:
        """Subtract the mean and divide by the deviation of every channel."""
        # The least variance is for a channel that the teacher hardly uses, because
        # its noise would outweigh all other channels.
        least = LEAST_SHARE * self.var.mean()
        deviation = (self.var.maximum(least) + self.eps).sqrt()
        return (x - self._along(self.mean, x, dim)) / self._along(deviation, x, dim)

    def rms(self) -> Tensor:
        """Return the root mean square over all channels, a scalar."""
        return (self.mean.square() + self.var).mean().sqrt().clamp(min=self.eps)

    @staticmethod
    def _along(stat: Tensor, x: Tensor, dim: int) -> Tensor:
        shape = [1] * x.dim()
        shape[dim] = -1
        return stat.view(shape)


@torch.no_grad()
def update_means(batches: Sequence[tuple[RunningMean, Tensor]]) -> None:
    """Take in a batch's value of each mean, averaged over ranks in one exchange."""
    values = [batch.detach().to(mean.value.dtype) for mean, batch in batches]
    if values and get_world_size() > 1:
        packed = torch.cat([value.flatten() for value in values])
        all_reduce(packed, 'mean')
        parts = packed.split([value.numel() for value in values])
        values = [
            part.view_as(value).to(value.dtype)
            for part, value in zip(parts, values, strict=True)
        ]
    for (mean, _), value in zip(batches, values, strict=True):
        mean.value.add_((value - mean.value) * _weight(mean))


@torch.no_grad()
def share_rows(batches: Sequence[tuple[RunningNorm, Tensor]]) -> None:
    """Tell every norm the moments of its next batch on all ranks, in one exchange.

    A norm takes them in when it gets the same rows, (M, C), in its ``update``.
    """
    if batches:
        for (norm, _), moments in zip(batches, _over_ranks(batches), strict=True):
            norm._shared = moments


def _over_ranks(
    batches: Sequence[tuple[RunningNorm, Tensor]],
) -> list[tuple[Tensor, Tensor]]:
    """Return mean and variance of the rows of all ranks; some may have no rows."""
    moments = [torch.cat(norm._moments(rows)) for norm, rows in batches]
    received = torch.stack(all_gather(torch.cat(moments).nan_to_num()))
    parts = received.split([len(moment) for moment in moments], 1)
    found = []
    for (norm, _), part in zip(batches, parts, strict=True):
        width = len(norm.mean)
        counts, means, variances = part.to(norm.mean.dtype).split((1, width, width), 1)
        share = counts / counts.sum().clamp(min=1)
        mean = (share * means).sum(0)
        found.append((mean, (share * (variances + (means - mean).square())).sum(0)))
    return found


def _weight(module: RunningMean | RunningNorm) -> Tensor:
    """Count a batch and return its weight."""
    module.batches.add_(1)
    return module.batches.reciprocal().clamp(min=module.momentum)


def check_momentum(momentum: float) -> None:
    """Raise ValueError unless it is a number from 0 to 1."""
    if not is_number(momentum) or not 0 <= momentum <= 1:
        raise ValueError(
            describe(
                'momentum',
                momentum,
                'It is the weight of a new batch.',
                'Write a number from 0 (plain mean of all batches) to 1.',
            )
        )
