"""Running statistics: equal on all ranks, kept in checkpoints, read without a sync."""

from numbers import Real

import torch
from mmengine.dist import all_gather, all_reduce, get_world_size
from torch import Tensor, nn

from ..utils.errors import describe

# Least variance of a channel, as a share of the mean over the channels.
LEAST_SHARE = 0.01


class RunningMean(nn.Module):
    """The mean over batches, later an exponential one; right from the first batch.

    A new batch gets the weight ``max(1 / batches, momentum)``: the first
    ``1 / momentum`` batches give their plain mean, then old ones fade.

    Args:
        shape (tuple[int, ...]): Of the quantity. Defaults to a scalar.
        momentum (float): Least weight of a new batch; 0 for the plain mean of
            all. Defaults to 0.01.

    Raises:
        ValueError: ``momentum`` is not in [0, 1].
    """

    def __init__(self, shape: tuple[int, ...] = (), momentum: float = 0.01) -> None:
        super().__init__()
        check_momentum(momentum)
        self.momentum = momentum
        self.register_buffer('batches', torch.zeros(()))
        self.register_buffer('value', torch.zeros(shape))

    @torch.no_grad()
    def update(self, batch: Tensor) -> Tensor:
        """Take in a batch's value, averaged over ranks; return the mean so far."""
        batch = batch.detach().to(self.value.dtype, copy=True)
        if get_world_size() > 1:
            all_reduce(batch, 'mean')
        self.value.add_((batch - self.value) * _weight(self))
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

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Take in a batch of rows (M, C) of this rank; all ranks join theirs."""
        alone = get_world_size() == 1
        if alone and not len(rows):
            return
        rows = rows.detach().to(self.mean.dtype)
        var, mean = torch.var_mean(rows, 0, correction=0)
        if not alone:
            mean, var = _join(len(rows), mean, var)
        weight = _weight(self)
        # No mean of squares, whose difference would be lost to rounding.
        gap = mean - self.mean
        spread = (var - self.var) * weight + gap.square() * (weight * (1 - weight))
        self.var.add_(spread)
        self.mean.add_(gap * weight)

    def forward(self, x: Tensor, dim: int = -1) -> Tensor:
        """Subtract the mean and divide by the deviation of every channel."""
        # A channel the teacher hardly uses must not outweigh all others.
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


def _join(count: int, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the rows of all ranks; some may have none."""
    own = torch.cat((mean.new_full((1,), count), mean, var)).nan_to_num()
    counts, means, variances = torch.stack(all_gather(own)).split(
        (1, len(mean), len(var)), 1
    )
    share = counts / counts.sum().clamp(min=1)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def _weight(module: nn.Module) -> Tensor:
    """Count a batch; return its weight."""
    module.batches.add_(1)
    return module.batches.reciprocal().clamp(min=module.momentum)


def check_momentum(momentum: float) -> None:
    """Raise ValueError unless it is a number from 0 to 1."""
    number = isinstance(momentum, Real) and not isinstance(momentum, bool)
    if not number or not 0 <= momentum <= 1:
        raise ValueError(
            describe(
                'momentum',
                momentum,
                'It is the weight of a new batch.',
                'Write a number from 0 (plain mean of all batches) to 1.',
            )
        )
