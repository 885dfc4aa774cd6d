"""The loss of OFD: the teacher's features before the ReLU, down to a margin."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor, nn

from .checks import check_number
from .feature_lists import level_terms, paired_maps

# Below this probability of a negative value the margin is so many deviations.
RARE = 0.001
DEVIATIONS = 3.0


def margin_of(bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    r"""Return what a normalised channel is on average where it is negative.

    OFD, arXiv 1904.01866, Eq. 4: a channel after BN is taken for normal with mean
    m = bias and deviation s = \|weight\|, and its margin is

    .. math:: E[x | x < 0] = m - s \, \frac{\phi(m / s)}{\Phi(-m / s)}

    or -3 s where :math:`\Phi(-m / s)`, the probability of a negative value, is at
    most 0.001. For s = 0 it is the limit of both, min(m, 0).

    Args:
        bn_weight (Tensor): Weight of the BN before the ReLU, (C,).
        bn_bias (Tensor): Its bias, (C,).

    Returns:
        Tensor: Margins <= 0, (C,), of the dtype of ``bn_bias``; no gradient.

    Raises:
        ValueError: the shapes are not (C,) both.
    """
    if bn_weight.dim() != 1 or bn_weight.shape != bn_bias.shape:
        raise ValueError(
            f'bn_weight has shape {tuple(bn_weight.shape)} and bn_bias '
            f'{tuple(bn_bias.shape)}: give weight and bias of one BN layer, (C,) each.'
        )
    mean, deviation = bn_bias.detach().double(), bn_weight.detach().double().abs()
    ratio = mean / torch.where(deviation > 0, deviation, 1)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    negative = torch.special.ndtr(-ratio)
    expected = mean - deviation * density / negative.clamp(min=RARE)
    margin = torch.where(negative > RARE, expected, -DEVIATIONS * deviation)
    limit = mean.clamp(max=0)
    return torch.where(deviation > 0, margin, limit).to(bn_bias.dtype)


def partial_l2(preds_S: Tensor, preds_T: Tensor, margin: Tensor) -> Tensor:
    r"""Return the distance of two maps, summed over a sample, averaged over samples.

    OFD, arXiv 1904.01866, Eq. 3 and 5: the goal is g = max(t, margin), and

    .. math:: d = (s - g)^2 \text{ where } t > 0 \text{ or } s > g, \text{ else } 0

    Args:
        preds_S (Tensor): The student's map, (N, C, H, W).
        preds_T (Tensor): The teacher's, of the same shape; gets no gradient.
        margin (Tensor): The margins of its channels, see :func:`margin_of`, (C,).

    Returns:
        Tensor: A scalar.

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
    counts = (preds_T > 0) | (preds_S > goal)
    gap = torch.where(counts, preds_S - goal, 0)
    return gap.square().sum() / max(len(gap), 1)


@MODELS.register_module()
class OFDFeatureLoss(nn.Module):
    """Distance to the teacher's features before the ReLU, with margins.

    "A Comprehensive Overhaul of Feature Distillation", arXiv 1904.01866. The
    student's maps come from a 1x1 convolution and BN each (``MapConnector`` with
    ``norm_cfg=dict(type='BN')``); the teacher's are averaged to their size. See
    :func:`partial_l2`; the last, deepest level has weight 1, each before it half of
    the next. ``terms`` holds the last step's value of each level, unweighted.

    The margins are worked out in every step from the teacher's BN layers, which
    two lists of ``Parameter`` recorders name. So they need no place in a
    checkpoint and cannot be forgotten. The BN may be another module than the tap:
    ``backbone.stage1.8.bn2.weight`` for a residual sum ``backbone.stage1_pre``.

    Args:
        loss_weight (float): Factor of the loss. Defaults to 1e-3.

    Raises:
        ValueError: ``loss_weight`` is negative or not finite.
    """

    def __init__(self, loss_weight: float = 1e-3) -> None:
        super().__init__()
        check_number(self, 'loss_weight', loss_weight)
        self.loss_weight = loss_weight
        self._levels: list[Tensor] = []

    def forward(
        self,
        preds_S: Sequence[Tensor],
        preds_T: Sequence[Tensor],
        bn_weights: Sequence[Tensor],
        bn_biases: Sequence[Tensor],
    ) -> Tensor:
        """Compute the loss.

        Args:
            preds_S (Sequence[Tensor]): The student's maps, shallow to deep,
                (N, C, H, W) each, of the teacher's widths.
            preds_T (Sequence[Tensor]): The teacher's before the ReLU, (N, C, H', W')
                each; get no gradient.
            bn_weights (Sequence[Tensor]): Weights of the teacher's BN layers before
                those ReLUs, (C,) each.
            bn_biases (Sequence[Tensor]): Their biases, (C,) each.

        Returns:
            Tensor: The loss, a float32 (or float64) scalar.

        Raises:
            TypeError: an argument is no list, or a feature no float tensor.
            ValueError: the lists or shapes do not fit.
        """
        pairs = paired_maps(preds_S, preds_T, same_size=False)
        for name, values in (('bn_weights', bn_weights), ('bn_biases', bn_biases)):
            if not isinstance(values, (list, tuple)) or len(values) != len(pairs):
                raise ValueError(
                    f'{name} must be a list of {len(pairs)} tensors, one per map, got '
                    f'{_count(values)}: name as many Parameter recorders of the '
                    "teacher's BN layers in loss_forward_mappings."
                )
        levels = []
        for (ours, theirs), *norm in zip(pairs, bn_weights, bn_biases, strict=True):
            if theirs.shape != ours.shape:
                theirs = F.adaptive_avg_pool2d(theirs, ours.shape[2:])
            levels.append(partial_l2(ours, theirs, margin_of(*norm)))
        self._levels = [level.detach() for level in levels]
        total = sum(level / 2**above for above, level in enumerate(reversed(levels)))
        return self.loss_weight * total

    @property
    def terms(self) -> dict[str, Tensor]:
        """The last step's value of every level, detached scalars; {} before it."""
        return level_terms(self._levels)

    def extra_repr(self) -> str:
        """Show the settings in a printed model."""
        return f'loss_weight={self.loss_weight}'


def _count(values) -> str:
    is_list = isinstance(values, (list, tuple))
    return f'{len(values)}' if is_list else type(values).__name__
