"""Strong channels are those that are strong for the label over the training set."""

from collections.abc import Mapping

import torch
from mmengine.dist import all_reduce, get_world_size
from mmrazor.registry import MODELS
from torch import Tensor

from ...utils.errors import describe
from ..checks import check_classes, is_count
from ..statistics import RunningNorm
from .base_scorer import BaseScorer, built_scorer, required

DEFAULT_SCORER = dict(type='ActivationScorer')


@MODELS.register_module()
class ClassScorer(BaseScorer):
    r"""The mean, over all images of the label so far, of another scorer's scores.

    All images of a class therefore have the same strong channels, and a batch does not
    average clusters of many images away. With :math:`m_{kc}` the mean score of channel
    c over the images of class k, a channel's score is, with ``contrast``,

    .. math:: m_{kc} - \frac{1}{K} \sum_j m_{jc}

    which is high where a channel is stronger for the label than for other classes. The
    means are plain ones over all steps and ranks, because the teacher does not change,
    and are saved in checkpoints. An image with several labels gets the mean of its
    classes, weighted by the labels' scores. An image without any label, or of a class
    that no step has had, keeps its own scores.

    The control is ``scorer=dict(type='RandomScorer')``: clusters that all images of a
    class share, and that mean nothing.

    Args:
        channels (int): Channels of the teacher's feature.
        num_classes (int): Number of classes, K.
        scorer (dict | BaseScorer, optional): Whose scores are averaged. Defaults to
            ``dict(type='ActivationScorer')``.
        contrast (bool): Whether the mean over the classes is subtracted. Defaults to
            True.

    Raises:
        ValueError: ``channels`` or ``num_classes`` is no number from 1 on, ``scorer``
            is no scorer, or ``contrast`` no bool.
    """

    elementwise = False
    meaning = 'mean over the images of the class'
    means: Tensor
    counts: Tensor

    def __init__(
        self,
        channels: int,
        num_classes: int,
        scorer: dict | BaseScorer | None = None,
        contrast: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (('channels', channels), ('num_classes', num_classes)):
            if not is_count(value):
                problem = 'It counts what the teacher has.'
                remedy = 'Write an integer from 1 on.'
                raise ValueError(describe(f'scorer.{name}', value, problem, remedy))
        self.scorer = built_scorer(
            DEFAULT_SCORER if scorer is None else scorer, 'scorer.scorer'
        )
        if not isinstance(contrast, bool):
            problem = 'It says whether the mean over the classes is subtracted.'
            remedy = 'Write True or False.'
            raise ValueError(describe('scorer.contrast', contrast, problem, remedy))
        self.needs = tuple({'gt_labels', *self.scorer.needs})
        self.one_class = self.scorer.one_class
        self.by_image = self.scorer.by_image
        self.term_labels = self.scorer.term_labels  # type: ignore[misc]
        self.contrast = contrast
        self.register_buffer('means', torch.zeros(num_classes, channels))
        self.register_buffer('counts', torch.zeros(num_classes))

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Ask for the teacher's channels and classes."""
        return {'channels': 'teacher', 'num_classes': 'classes'}

    def forward(
        self,
        feature: Tensor,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the means of each image's class, (N, C).

        Raises:
            ValueError: labels are missing, do not fit ``num_classes`` or are none of
                the classes (seen on a CPU), or the feature has other channels.
        """
        gt_labels = required(self, 'gt_labels', gt_labels)
        classes, channels = self.means.shape
        if feature.shape[1] != channels:
            problem = f"The teacher's feature has {feature.shape[1]} channels."
            remedy = f'Write scorer.channels={feature.shape[1]}, or leave it out.'
            raise ValueError(describe('scorer.channels', channels, problem, remedy))
        shares = self._shares(gt_labels)
        self.scorer.images = self.images
        scores = self.scorer(feature, gt_labels, head_weight)
        self.terms, self.auxiliary = self.scorer.terms, self.scorer.auxiliary
        with torch.no_grad():
            own = scores.to(self.means.dtype)
            if self.training:
                self._take_in(own, shares)
            means = self.means
            if self.contrast:
                seen = (self.counts > 0).to(means.dtype).unsqueeze(1)
                means = means - (seen * means).sum(0) / seen.sum().clamp(min=1)
            known = shares * (self.counts > 0)
            total = known.sum(1, keepdim=True)
            least = torch.finfo(total.dtype).tiny
            return torch.where(total > 0, known @ means / total.clamp(min=least), own)

    def _shares(self, gt_labels: Tensor) -> Tensor:
        """Return how much of an image is of each class, (N, K); a row adds up to 1.

        A row without any label is 0.
        """
        classes, dtype = len(self.means), self.means.dtype
        if gt_labels.dim() == 1:
            labels = gt_labels.long().unsqueeze(1)
            check_classes(labels, self.means.T)
            return (labels == torch.arange(classes, device=labels.device)).to(dtype)
        if gt_labels.shape[1] != classes:
            problem = f'Rows of labels have {gt_labels.shape[1]} classes.'
            remedy = f'Write scorer.num_classes={gt_labels.shape[1]}, or leave it out.'
            raise ValueError(describe('scorer.num_classes', classes, problem, remedy))
        rows = gt_labels.to(dtype).clamp(min=0)
        total = rows.sum(1, keepdim=True)
        return rows / total.clamp(min=torch.finfo(dtype).tiny)

    def _take_in(self, scores: Tensor, shares: Tensor) -> None:
        """Let the means of the classes follow the batch of all ranks."""
        sums = torch.cat((shares.T @ scores, shares.sum(0).unsqueeze(1)), 1)
        if get_world_size() > 1:
            all_reduce(sums, 'sum')
        sums, counts = sums[:, :-1], sums[:, -1]
        self.counts.add_(counts)
        # A class that has not been seen has a change of 0.
        change = sums - counts.unsqueeze(1) * self.means
        least = torch.finfo(change.dtype).tiny
        self.means.add_(change / self.counts.unsqueeze(1).clamp(min=least))

    def norm_batches(self, feature: Tensor) -> list[tuple[RunningNorm, Tensor]]:
        """Return those of the scorer whose scores are averaged."""
        return self.scorer.norm_batches(feature)

    def warning(self, terms: dict[str, float]) -> str | None:
        """Return the warning of the scorer whose scores are averaged."""
        return self.scorer.warning(terms)
