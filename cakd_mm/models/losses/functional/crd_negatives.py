"""Images of other classes, drawn by counting instead of from lists per class."""

from typing import NamedTuple

import torch
from torch import Tensor

# The increment and the mixer of the SplitMix64 generator, as signed numbers.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_SHIFTS = (30, 27, 31)
_POSITIVE = 2**63 - 1


class ClassBlocks(NamedTuple):
    """All samples, sorted by class.

    Attributes:
        order (Tensor): int32, (N,), the samples class by class.
        starts (Tensor): int64, (C + 1,), where each class begins in ``order``.
    """

    order: Tensor
    starts: Tensor


def sort_by_class(labels: Tensor) -> ClassBlocks:
    """Sort the samples of a training set by class: integer (N,) -> blocks.

    The only bookkeeping that :func:`draw_others` needs: N + C + 1 integers, where a
    list of the other samples for every class would have N * (C - 1).

    Args:
        labels (Tensor): Class of every sample, integers >= 0, (N,). Classes
            without samples may lie between.
    """
    counts = torch.bincount(labels)
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return ClassBlocks(labels.argsort(stable=True).int(), starts)


def draw_others(
    indices: Tensor,
    labels: Tensor,
    blocks: ClassBlocks,
    count: int,
    seed: Tensor,
    step: Tensor,
) -> Tensor:
    """Draw samples of other classes, independently and with equal probability.

    A sample's draws follow from ``seed``, ``step`` and its index alone: they are
    the same on any device, on any number of ranks and at any place of a batch. Of
    the other classes' n samples each is drawn with a probability within 2**-62 of
    1 / n; drawing is with replacement.

    Args:
        indices (Tensor): The samples to draw for, int64, (B,).
        labels (Tensor): Class of every sample, integers, (N,); at least two
            classes have samples.
        blocks (ClassBlocks): Of the same samples.
        count (int): Draws for each sample, K.
        seed (Tensor): int64 scalar.
        step (Tensor): int64 scalar, another one in every step.

    Returns:
        Tensor: int64, (B, K).
    """
    own = labels[indices].long()
    start = blocks.starts[own].unsqueeze(1)
    size = blocks.starts[own + 1].unsqueeze(1) - start
    place = uniform_bits(indices, count, seed, step) % (len(labels) - size)
    # Past the block of the own class.
    place = place.add_(size * (place >= start))
    return blocks.order[place].long()


def uniform_bits(indices: Tensor, count: int, seed: Tensor, step: Tensor) -> Tensor:
    """Return ``count`` random numbers for each index: (B,) -> int64 (B, count).

    They are uniform in [0, 2**63): the outputs of a SplitMix64 generator that every
    (seed, step, index) starts anew.
    """
    key = _mix(_mix(_mix(seed + _STEP) + step + _STEP) + indices + _STEP)
    numbers = torch.arange(1, count + 1, device=indices.device)
    return _mix(key.unsqueeze(1) + numbers * _STEP).bitwise_and_(_POSITIVE)


def _mix(bits: Tensor) -> Tensor:
    """Mix 64 bits well: int64 -> int64; products wrap around."""
    first, second, third = _SHIFTS
    bits = (bits ^ _shifted(bits, first)) * _FACTORS[0]
    bits = (bits ^ _shifted(bits, second)) * _FACTORS[1]
    return bits ^ _shifted(bits, third)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift to the right and fill with zeros, not with the sign."""
    return (bits >> by) & (2 ** (64 - by) - 1)
