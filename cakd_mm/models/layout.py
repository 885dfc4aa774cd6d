"""How a feature becomes distributions: tensors in, tensors out."""

import torch
from torch import Tensor

GRANULARITIES = ('pooled', 'channel', 'spatial', 'flat')


def channel_dim(feature: Tensor) -> int:
    """Return the dimension of the channels: 1 of a map, the last of all others."""
    return 1 if feature.dim() == 4 else -1


def pool(feature: Tensor) -> Tensor:
    """Average a map (N, C, H, W) over its positions; leave anything else."""
    return feature.mean((2, 3)) if feature.dim() == 4 else feature


def to_rows(feature: Tensor, granularity: str) -> Tensor:
    """Lay a feature out with one distribution per row.

    ========= ====================================== ===================
    pooled    over the channels of (N, C)            (N, C)
    pooled    over the channels of each token        (N * L, C)
    channel   over the channels at each position     (N * H * W, C)
    spatial   over the positions of each channel     (N * C, H * W)
    flat      over the whole map                     (N, C * H * W)
    ========= ====================================== ===================

    Args:
        feature (Tensor): (N, C), (N, L, C) or a map, which is averaged first, for
            ``'pooled'``; a map (N, C, H, W) otherwise.
        granularity (str): One of ``GRANULARITIES``.

    Raises:
        ValueError: the feature has no such layout.
    """
    expected = (2, 3, 4) if granularity == 'pooled' else (4,)
    if feature.dim() not in expected:
        raise ValueError(
            f'granularity={granularity!r} cannot lay out a feature of shape '
            f"{tuple(feature.shape)}: use 'pooled' for vectors (N, C) and tokens "
            '(N, L, C), and tap a map (N, C, H, W) for the others. Tokens become a map '
            "by TokensToMapConnector, on the teacher's side as well."
        )
    if granularity == 'pooled':
        feature = pool(feature)
        return feature.reshape(-1, feature.shape[-1])
    if granularity == 'channel':
        return feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])
    if granularity == 'spatial':
        return feature.flatten(2).flatten(0, 1)
    return feature.flatten(1)


def to_scored(feature: Tensor, granularity: str) -> Tensor:
    """Lay a teacher's feature out for a scorer.

    Channels are scored once per sample: (N, C), or (N, C, P) where they have
    positions or tokens. Elements of ``'spatial'`` and ``'flat'`` are scored
    within their row.
    """
    if granularity in ('spatial', 'flat'):
        return to_rows(feature, granularity)
    if feature.dim() == 3:
        return feature.transpose(1, 2)
    if granularity == 'pooled':
        return pool(feature)
    return feature.flatten(2)


def to_row_mask(mask: Tensor, rows: Tensor) -> Tensor:
    """Repeat a mask of each sample (N, E) for all rows (R, E) of the sample."""
    repeats = len(rows) // max(len(mask), 1)
    return mask if repeats == 1 else mask.repeat_interleave(repeats, 0)


def strongest(scores: Tensor, count: int) -> Tensor:
    """Mark the ``count`` highest scores of every row: (N, E) -> bool (N, E)."""
    index = scores.topk(count, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, index, True)


def cluster_sums(rows: Tensor, mask: Tensor) -> Tensor:
    """Return the sums of all elements in S and of all in W: two (N, E) -> (2,)."""
    # The mask is a factor of 1 or 0, because a CPU takes far longer to select by it.
    strong = (rows * mask.view(torch.uint8).to(rows.dtype)).sum()
    return torch.stack((strong, rows.sum() - strong))
