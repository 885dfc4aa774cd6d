"""The loss of ReviewKD, which compares maps at several sizes."""

from collections.abc import Sequence

from mmrazor.registry import MODELS
from torch import Tensor

from .feature_lists import FeatureListLoss
from .functional.hcl import context_of_levels


@MODELS.register_module()
class HCLLoss(FeatureListLoss):
    """Hierarchical context loss between lists of maps.

    "Distilling Knowledge via Knowledge Review", arXiv 2104.09044. A
    :class:`FusionConnector` fuses the student's maps. The loss is the sum of
    :func:`context_of_levels`. ``terms`` holds the last step's value of each level,
    ``level_1`` of the first, without ``loss_weight``. Features up to 1e12 give finite
    numbers, see :class:`DistillLoss`.

    Args:
        loss_weight (float): Factor of the loss. Defaults to 1.0.

    Raises:
        ValueError: ``loss_weight`` is out of range.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)

    def forward(self, preds_S: Sequence[Tensor], preds_T: Sequence[Tensor]) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Sequence[Tensor]): The student's maps (N, C, H, W) or vectors
                (N, C), in the order of the teacher's.
            preds_T (Sequence[Tensor]): The teacher's, of the same shapes; get no
                gradient.

        Raises:
            TypeError: an argument is no list of float tensors.
            ValueError: the lists or shapes differ.
        """
        levels = context_of_levels(preds_S, preds_T)
        self.log_levels(levels)
        return self.loss_weight * sum(levels[1:], levels[0])
