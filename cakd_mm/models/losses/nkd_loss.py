"""NKD between class logits: the registered loss around the maths."""

from mmrazor.registry import MODELS
from torch import Tensor, nn

from .checks import check_classes, check_number, class_indices
from .functional import batch_mean
from .normalized import normalized_kd


@MODELS.register_module()
class NKDLoss(nn.Module):
    r"""NKD between the class logits of student and teacher.

    "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
    with Normalized Loss and Customized Soft Labels", arXiv 2303.13005: the label's
    cross entropy weighted with the teacher's probability, always at temperature 1,
    and the cross entropy among the other classes by themselves, see
    :func:`normalized_kd`,

    .. math:: L = mean(target + \gamma \, \tau^2 \, others)

    Being cross entropies they do not vanish for equal nets. The mean is over the
    samples of the batch. ``terms`` holds the last step's ``target`` and ``others``,
    the latter with ``tau**2``, neither with its weight.

    Args:
        tau (float): Temperature among the other classes. Defaults to 1.0.
        gamma (float): Weight of the other classes. Defaults to 1.5.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.

    Raises:
        ValueError: a number is negative or not finite, or ``tau`` is 0.
    """

    def __init__(
        self, tau: float = 1.0, gamma: float = 1.5, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'gamma', gamma)
        check_number(self, 'loss_weight', loss_weight)
        self.tau = tau
        self.gamma = gamma
        self.loss_weight = loss_weight
        self._rows: dict[str, Tensor] = {}

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.
            gt_labels (Tensor): Class indices, (N,), or label scores, (N, C), of
                which the highest counts (mixup, CutMix).

        Returns:
            Tensor: The loss, a float32 (or float64) scalar.

        Raises:
            TypeError: logits or class indices have the wrong dtype.
            ValueError: shapes do not fit, labels are not classes, or a row of
                scores marks several with 1; see :func:`class_indices`.
        """
        labels = class_indices(gt_labels, preds_S)
        check_classes(labels, preds_S)
        target, others = normalized_kd(preds_S, preds_T, labels, self.tau)
        others = self.tau**2 * others
        self._rows = {'target': target.detach(), 'others': others.detach()}
        return self.loss_weight * batch_mean(target + self.gamma * others)

    @property
    def terms(self) -> dict[str, Tensor]:
        """The last step's means over the batch, detached scalars; {} before it."""
        return {name: batch_mean(rows) for name, rows in self._rows.items()}

    def extra_repr(self) -> str:
        """Show the settings in a printed model."""
        return f'tau={self.tau}, gamma={self.gamma}, loss_weight={self.loss_weight}'
