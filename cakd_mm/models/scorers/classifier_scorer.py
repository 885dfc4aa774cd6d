"""Strong channels are those that speak for the labelled class."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from .base_scorer import BaseScorer, required


@MODELS.register_module()
class ClassifierScorer(BaseScorer):
    """A channel's contribution to the teacher's own logit of the labelled class.

    It is the activation times the weight of the teacher's linear classifier. Only
    the penultimate, pooled feature has such weights: map ``head_weight`` to a
    recorder of them (``dict(type='Parameter', source='head.fc.weight')``). A row of
    label scores averages the weights of its classes by the positive scores; a row
    without any label ranks the channels by activation.

    Args:
        absolute (bool): Whether the magnitude counts, so that a channel that speaks
            against the class is strong too. Defaults to False.
    """

    elementwise = False
    needs = ('gt_labels', 'head_weight')
    meaning = "contribution to the label's logit"

    def __init__(self, absolute: bool = False) -> None:
        super().__init__()
        self.absolute = absolute

    def forward(
        self,
        feature: Tensor,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the contributions, (N, C).

        Raises:
            ValueError: an argument is missing, or the feature is not the input of
                the classifier.
        """
        gt_labels = required(self, 'gt_labels', gt_labels)
        head_weight = required(self, 'head_weight', head_weight)
        if feature.dim() != 2 or feature.shape[1] != head_weight.shape[-1]:
            raise ValueError(
                f"ClassifierScorer scores the classifier's input, (N, "
                f'{head_weight.shape[-1]}), got a feature of shape '
                f"{tuple(feature.shape)}: set granularity='pooled' and tap the "
                "penultimate feature (source='neck'), or use ActivationScorer."
            )
        weight = head_weight.detach().to(feature.dtype)
        if gt_labels.dim() == 1:
            weight = weight[gt_labels.long()]
        else:
            share = gt_labels.to(feature.dtype).clamp(min=0)
            total = share.sum(1, keepdim=True)
            average = share @ weight / total.clamp(min=1e-12)
            weight = torch.where(total > 0, average, 1.0)
        scores = feature * weight
        return scores.abs() if self.absolute else scores
