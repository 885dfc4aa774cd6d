"""The loss of OFD, which compares features before the ReLU, down to a margin."""

from collections.abc import Sequence

from mmrazor.registry import MODELS
from torch import Tensor

from ..averages import averaged
from .feature_lists import FeatureListLoss
from .functional.ofd import margin_of, partial_l2
from .map_pairs import paired_maps


@MODELS.register_module()
class OFDFeatureLoss(FeatureListLoss):
    """Distance to the teacher's features before the ReLU, with margins.

    "A Comprehensive Overhaul of Feature Distillation", arXiv 1904.01866. Each of the
    student's maps comes from a 1x1 convolution and BN (``MapConnector`` with
    ``norm_cfg=dict(type='BN')``); the teacher's are averaged to their size. The loss
    is the weighted sum of :func:`partial_l2` of the levels: the last, deepest level
    has weight 1, each before it half of the next. ``terms`` holds the last step's
    value of each level, unweighted. Features up to 1e12 give finite numbers, see
    :class:`DistillLoss`.

    The margins are computed in every step from the teacher's BN layers, which two
    lists of ``Parameter`` recorders name. The BN may belong to another module than
    the tap: ``backbone.stage1.8.bn2.weight`` for the residual sum
    ``backbone.stage1_pre``.

    Args:
        loss_weight (float): Factor of the loss. Defaults to 1e-3.

    Raises:
        ValueError: ``loss_weight`` is out of range.
    """

    any_size = True  # The teacher's maps are averaged to the student's size.

    def __init__(self, loss_weight: float = 1e-3) -> None:
        super().__init__(loss_weight)

    def forward(
        self,
        preds_S: Sequence[Tensor],
        preds_T: Sequence[Tensor],
        bn_weights: Sequence[Tensor],
        bn_biases: Sequence[Tensor],
    ) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Sequence[Tensor]): The student's maps, shallow to deep,
                (N, C, H, W) each, of the teacher's widths.
            preds_T (Sequence[Tensor]): The teacher's before the ReLU, (N, C, H', W')
                each; get no gradient.
            bn_weights (Sequence[Tensor]): Weights of the teacher's BN layers before
                those ReLUs, (C,) each.
            bn_biases (Sequence[Tensor]): Their biases, (C,) each.

        Raises:
            TypeError: an argument is no list, or a feature no float tensor.
            ValueError: the lists or shapes do not fit.
        """
        pairs = paired_maps(preds_S, preds_T, same_size=False)
        for name, values in (('bn_weights', bn_weights), ('bn_biases', bn_biases)):
            is_list = isinstance(values, (list, tuple))
            if not is_list or len(values) != len(pairs):
                found = len(values) if is_list else type(values).__name__
                raise ValueError(
                    f'{name} must be a list of {len(pairs)} tensors, one per map, got '
                    f'{found}: name as many Parameter recorders of the '
                    "teacher's BN layers in loss_forward_mappings."
                )
        levels = []
        for (ours, theirs), *norm in zip(pairs, bn_weights, bn_biases, strict=True):
            if theirs.shape != ours.shape:
                theirs = averaged(theirs, ours.shape[2:])
            levels.append(partial_l2(ours, theirs, margin_of(*norm)))
        self.log_levels(levels)
        total = sum(level / 2**above for above, level in enumerate(reversed(levels)))
        return self.loss_weight * total
