"""CAKD between class logits."""

from collections.abc import Mapping

from mmrazor.registry import MODELS
from torch import Tensor

from ...utils.compiling import compiled
from ..checks import check_float_tensor, check_number, class_indices
from ..term_axis import CLUSTER_TERMS
from .base import DistillLoss
from .functional import cluster_terms, single_label_kl_and_terms, weighted_kl
from .functional.cakd import label_and_others, two_clusters


@MODELS.register_module()
class CAKDLogitLoss(DistillLoss):
    r"""CAKD between the class logits of student and teacher.

    "CAKD: A Correlation-Aware Knowledge Distillation Framework Based on
    Decoupling Kullback-Leibler Divergence", arXiv 2410.14741, Eq. 7-9. The
    labelled classes are the strong cluster, all others the weak one, and

    .. math:: L = \tau^2 \, mean(\alpha BCD + \beta SCD + \gamma WCD)

    with the mean over the samples of the batch. With one label per sample SCD is 0,
    and the loss is DKD (arXiv 2203.08679) with ``beta=gamma``. ``terms`` holds the
    last step's ``bcd``, ``scd`` and ``wcd``, with ``tau**2`` and no weight, and
    ``strong_mass``, the teacher's probability of the labels.

    Args:
        tau (float): Temperature that divides the logits. Defaults to 4.0.
        alpha (float): Weight of BCD, between the clusters. Defaults to 1.0.
        beta (float): Weight of SCD, within the labelled classes; without
            effect unless ``multi_label``. Defaults to 1.0.
        gamma (float): Weight of WCD, within the other classes. Defaults to 8.0.
        multi_label (bool): Whether labels are rows that mark any number of
            classes. Without any, there is no strong cluster: BCD and SCD are 0, and
            WCD compares all classes. Defaults to False.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        soft_labels (str): What to do with rows of label scores (mixup, CutMix)
            unless ``multi_label``: ``'argmax'`` takes the class of the highest
            score, ``'refuse'`` raises. Defaults to ``'argmax'``.
        compile (bool): Whether torch.compile compiles the loss and its gradient,
            which changes nothing but their rounding. Defaults to False.

    Raises:
        ValueError: a number is out of range, or ``soft_labels`` is unknown.
    """

    term_labels = CLUSTER_TERMS

    def __init__(
        self,
        tau: float = 4.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 8.0,
        multi_label: bool = False,
        loss_weight: float = 1.0,
        soft_labels: str = 'argmax',
        compile: bool = False,
    ) -> None:
        super().__init__(loss_weight)
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'alpha', alpha)
        check_number(self, 'beta', beta)
        check_number(self, 'gamma', gamma)
        if soft_labels not in ('argmax', 'refuse'):
            raise ValueError(
                f"soft_labels must be 'argmax' or 'refuse', got {soft_labels!r}."
            )
        self.tau = tau
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.multi_label = multi_label
        self.soft_labels = soft_labels
        self.compiled = compile
        self._function = two_clusters if multi_label else label_and_others
        if compile:
            self._function = compiled(
                self._function, 'compile', largest_alone=True, fullgraph=True
            )

    @classmethod
    def describe_clusters(cls, cfg: Mapping) -> str:
        """Say what is strong."""
        return 'strong = the labelled class, weak = all others'

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.
            gt_labels (Tensor): Class indices, (N,), or label scores, (N, C).
                With ``multi_label`` rows (N, C) of int, bool or float; a class
                with a value above 0 is a label.

        Raises:
            TypeError: logits or class indices have the wrong dtype.
            ValueError: shapes do not fit, labels are not classes, or a row of
                scores marks several with 1; see :func:`class_indices`.
        """
        check_float_tensor('preds_S', preds_S)
        scale = self.loss_weight * self.tau**2
        alpha, gamma = scale * self.alpha, scale * self.gamma
        if self.multi_label:
            mask, beta = self._mask(gt_labels, preds_S), scale * self.beta
            loss, divergences = weighted_kl(
                preds_S, preds_T, mask, self.tau, alpha, beta, gamma, self._function
            )
        else:
            labels = self._labels(gt_labels, preds_S)
            loss, divergences = single_label_kl_and_terms(
                preds_S, preds_T, labels, self.tau, alpha, gamma, self._function
            )
        self._own_rows = divergences.rows()
        return loss

    @property
    def one_class(self) -> bool:
        """True unless ``multi_label``."""
        return not self.multi_label

    def terms_of(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return means, those of divergences with ``tau**2``."""
        return cluster_terms(rows, self.tau**2)

    def _mask(self, gt_labels: Tensor, preds: Tensor) -> Tensor:
        if gt_labels.shape != preds.shape:
            raise ValueError(
                f'multi_label=True needs gt_labels of the shape of the logits, '
                f'{tuple(preds.shape)}, got {tuple(gt_labels.shape)}: set '
                'multi_label=False for class indices, or num_classes of the heads '
                'to the width of the label rows.'
            )
        return gt_labels > 0

    def _labels(self, gt_labels: Tensor, preds: Tensor) -> Tensor:
        """Return class indices, (N,)."""
        if self.soft_labels == 'refuse' and gt_labels.dim() == 2:
            raise ValueError(
                f"soft_labels='refuse', but gt_labels are rows of shape "
                f"{tuple(gt_labels.shape)}: set soft_labels='argmax', set "
                'multi_label=True, or leave out mixup and CutMix.'
            )
        return class_indices(gt_labels, preds, 'multi_label')
