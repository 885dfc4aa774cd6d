"""A small network that learns which channels of the teacher carry its decision."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ..checks import check_number, refuse_several_labels, refuse_unlabelled_rows
from ..statistics import RunningNorm
from ..term_axis import TermAxis
from .base_scorer import BaseScorer, required

# The feature is made small, because a large one lets the classifier tell the classes
# apart whatever the gates do, so that the gates learn little
# (research/docs/feature_study.md has the figures). All channels share one factor, so
# that strong ones stay strong.
FEATURE_RMS = 0.25


@MODELS.register_module()
class ScoringNetwork(BaseScorer):
    r"""Squeeze-excite gates, trained beside the student by a loss of their own.

    From the standardised feature of the teacher a network computes gates g in (0, 1).
    A linear classifier reads the gated feature, and both learn from

    .. math:: CE(classifier(g \cdot x), label) + penalty \, (\bar g - share)^2

    where x is the feature, brought to the size ``feature_rms``, and the last term
    holds the mean gate of a sample. The paper (arXiv 2410.14741) names such a network
    and gives neither architecture nor rule. Teacher and student get no gradient from
    it, because the feature is detached and the clusters are chosen by rank.

    Args:
        channels (int): Channels of the teacher's feature, C.
        num_classes (int): Number of classes.
        share (float): Mean gate to aim at; a config that leaves it out gets the
            ``strong_share`` of the loss. Defaults to 0.5.
        reduction (int): C over the hidden width. Defaults to 4.
        penalty (float): Weight of the mean gate's error. Defaults to 2.0.
        loss_weight (float): Factor of the auxiliary loss. Defaults to 1.0.
        multi_label (bool): Whether rows of labels mark any number of classes.
            Defaults to False.
        feature_rms (float): The root mean square to which the feature is brought
            for the classifier. Defaults to 0.25.
        min_spread (float): Standard deviation of a sample's gates below which
            the network counts as collapsed. Defaults to 0.05.
        patience (int): Training steps before that is checked. Defaults to 200.

    Raises:
        ValueError: ``share`` is not in (0, 1), or a number is out of range.
    """

    elementwise = False
    needs = ('gt_labels',)
    meaning = 'gate before its sigmoid'
    term_labels = {
        'gate_mean': (TermAxis.SHARE, 'gate_mean: mean gate of the scoring network'),
        'gate_spread': (
            TermAxis.SHARE,
            'gate_spread: deviation of the gates of an image',
        ),
    }

    def __init__(
        self,
        channels: int,
        num_classes: int,
        share: float = 0.5,
        reduction: int = 4,
        penalty: float = 2.0,
        loss_weight: float = 1.0,
        multi_label: bool = False,
        feature_rms: float = FEATURE_RMS,
        min_spread: float = 0.05,
        patience: int = 200,
    ) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(
                f'share must be in (0, 1), got {share!r}: write the strong_share of '
                'the loss.'
            )
        if min(channels, num_classes, reduction) < 1:
            raise ValueError(
                'channels, num_classes and reduction must be positive, got '
                f'{channels}, {num_classes}, {reduction}.'
            )
        check_number(self, 'penalty', penalty)
        check_number(self, 'loss_weight', loss_weight)
        check_number(self, 'feature_rms', feature_rms, positive=True)
        check_number(self, 'min_spread', min_spread)
        self.share = share
        self.penalty = penalty
        self.loss_weight = loss_weight
        self.multi_label = multi_label
        self.one_class = not multi_label
        self.feature_rms = feature_rms
        self.min_spread = min_spread
        self.patience = patience
        self.norm = RunningNorm(channels)
        hidden = max(channels // reduction, 4)
        last = nn.Linear(hidden, channels)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), last)
        self.classifier = nn.Linear(channels, num_classes)
        # All gates start about `share`, without a random preference.
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, math.log(share / (1 - share)))

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Ask for the teacher's channels and classes, and for the share of the loss."""
        return {
            'channels': 'teacher',
            'num_classes': 'classes',
            'share': 'strong_share',
        }

    def forward(
        self,
        feature: Tensor,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the gates before their sigmoid, (N, C).

        In training it also leaves the auxiliary loss in ``auxiliary``, and the
        gates' mean and spread in ``terms``.

        Raises:
            ValueError: the feature does not have ``channels`` channels, or rows
                mark several classes without ``multi_label`` (seen on a CPU).
        """
        feature = _vectors(feature)
        if feature.shape[1] != self.norm.mean.numel():
            raise ValueError(
                f"The teacher's feature has {feature.shape[1]} channels, but "
                f'scorer.channels={self.norm.mean.numel()}: write '
                f'scorer.channels={feature.shape[1]}.'
            )
        self.auxiliary = None
        feature = feature.to(self.norm.mean.dtype)
        # Autocast is off, because gates in half precision would have equal ranks.
        with torch.autocast(feature.device.type, enabled=False):
            if self.training:
                self.norm.update(feature)
            scores = self.gate(self.norm(feature))
            gates = scores.sigmoid()
            self.terms = {
                'gate_mean': gates.detach().mean(),
                'gate_spread': gates.detach().std(1, correction=0).mean(),
            }
            if self.training and torch.is_grad_enabled() and len(feature):
                scale = self.feature_rms / self.norm.rms()
                logits = self.classifier(feature * scale * gates)
                error = self._error(logits, required(self, 'gt_labels', gt_labels))
                budget = (gates.mean(1) - self.share).square().mean()
                self.auxiliary = self.loss_weight * (error + self.penalty * budget)
        return scores.detach()

    def norm_batches(self, feature: Tensor) -> list[tuple[RunningNorm, Tensor]]:
        """Return the feature's vectors for its standardisation."""
        return [(self.norm, _vectors(feature))] if self.training else []

    def _error(self, logits: Tensor, gt_labels: Tensor) -> Tensor:
        """Return the cross entropy of the classifier, a scalar."""
        if self.multi_label:
            marked = (gt_labels > 0).to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, marked)
        if gt_labels.dim() == 2:
            refuse_several_labels(gt_labels, 'scorer.multi_label')
            refuse_unlabelled_rows(gt_labels, 'scorer.multi_label')
            return F.cross_entropy(logits, gt_labels.to(logits.dtype))
        return F.cross_entropy(logits, gt_labels.long())

    def warning(self, terms: dict[str, float]) -> str | None:
        """Tell of gates that no longer tell channels apart."""
        spread = terms.get('gate_spread', math.inf)
        if spread >= self.min_spread or float(self.norm.batches) < self.patience:
            return None
        return (
            f'The scoring network has collapsed: the gates of a sample differ by '
            f'{spread:.3g} only (standard deviation), so its strong channels are '
            'about random. Raise scorer.penalty, lower the learning rate of '
            'model.distiller with paramwise_cfg, or use ActivationScorer.'
        )


def _vectors(feature: Tensor) -> Tensor:
    """Average a feature (N, C, P) over its positions."""
    return feature.mean(-1) if feature.dim() == 3 else feature
