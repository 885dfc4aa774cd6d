"""The maths of OFD (arXiv 1904.01866): margins and a partial distance."""

import math

import torch
from torch import Tensor

from ...widened import widened

# A channel with at most this probability of a negative value gets the margin of so
# many deviations below 0.
RARE = 0.001
DEVIATIONS = 3.0


def margin_of(bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    r"""Return the mean of the negative values of channels after BN, (C,).

    OFD, arXiv 1904.01866, Eq. 4. A channel after BN is assumed to be normal with mean
    m = bias and deviation s = \|weight\|, and its margin is

    .. math:: E[x | x < 0] = m - s \, \frac{\phi(m / s)}{\Phi(-m / s)}

    or -3 s where :math:`\Phi(-m / s)`, the probability of a negative value, is at
    most 0.001. For s = 0 it is the limit of both, min(m, 0). The margins have the
    dtype of ``bn_bias`` and no gradient. The arguments, (C,), are those of the BN
    before the ReLU.

    Raises:
        ValueError: the shapes are not (C,) both.
    """
    if bn_weight.dim() != 1 or bn_weight.shape != bn_bias.shape:
        raise ValueError(
            f'bn_weight has shape {tuple(bn_weight.shape)} and bn_bias '
            f'{tuple(bn_bias.shape)}: give weight and bias of one BN layer, (C,) each.'
        )
    mean, deviation = widened(bn_bias.detach()), widened(bn_weight.detach()).abs()
    ratio = mean / torch.where(deviation > 0, deviation, 1)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    negative = torch.special.ndtr(-ratio)
    expected = mean - deviation * density / negative.clamp(min=RARE)
    margin = torch.where(negative > RARE, expected, -DEVIATIONS * deviation)
    limit = mean.clamp(max=0)
    return torch.where(deviation > 0, margin, limit).to(bn_bias.dtype)


def partial_l2(preds_S: Tensor, preds_T: Tensor, margin: Tensor) -> Tensor:
    r"""Return the distance of two maps, summed over a sample, averaged over samples.

    OFD, arXiv 1904.01866, Eq. 3 and 5. The goal is g = max(t, margin), and

    .. math:: d = (s - g)^2 \text{ where } t > 0 \text{ or } s > g, \text{ else } 0

    The maps s and t are (N, C, H, W), and the teacher's, t, gets no gradient. See
    :func:`margin_of` for ``margin``, (C,).

    Raises:
        ValueError: the shapes do not fit.
    """
    if preds_S.shape != preds_T.shape or margin.shape != preds_T.shape[1:2]:
        raise ValueError(
            f'preds_S has shape {tuple(preds_S.shape)}, preds_T '
            f'{tuple(preds_T.shape)} and margin {tuple(margin.shape)}: give maps of '
            'one shape (N, C, H, W) and a margin for each channel, (C,), of the BN '
            'that makes the tapped feature.'
        )
    preds_T = preds_T.detach()
    goal = preds_T.maximum(margin.to(preds_T.dtype)[:, None, None])
    compared = (preds_T > 0) | (preds_S > goal)
    gap = torch.where(compared, preds_S - goal, 0)
    return gap.square().sum() / max(len(gap), 1)
