"""CMKD between class logits: the registered loss around the maths."""

from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number, checked_scores
from ..term_axis import TermAxis
from .base import DistillLoss
from .functional import batch_mean, pearson_distance, spearman_distance
from .functional.cmkd import check_regularization
from .functional.nkd import normalized_entropy

ENTROPY = 'entropy'


@MODELS.register_module()
class CMKDLoss(DistillLoss):
    r"""Correlation matching between the class logits of student and teacher.

    After "Efficient and Robust Knowledge Distillation from A Stronger Teacher Based
    on Correlation Matching", arXiv 2410.06561, which lowers, per sample, 1 - Pearson's
    and 1 - Spearman's correlation of the two nets' class scores and weights the two
    by the sample's difficulty. A reconstruction: there is no public code, and only
    the abstract was at hand. What it leaves open is settled here as

    .. math:: L = mean(\alpha \, (1 - d) \, Pearson + \beta \, d \, Spearman)

    with the difficulty d of a sample the entropy of the teacher's softmax at ``tau``
    in units of log C: 0 for a teacher sure of one class, 1 for equal classes. The
    ranks are soft, see :func:`soft_ranks`. Neither distance depends on the scale of
    the logits, so there is no factor ``tau**2``, and z-scores are implied. The mean
    is over the samples of the batch. A net that scores all classes alike has both
    distances 1 and no gradient.

    On a GPU each step waits for the host to pool the ranks, see :func:`soft_ranks`.

    ``terms`` holds the last step's mean ``pearson`` and ``spearman`` distances and
    ``difficulty``, none with a weight.

    Args:
        alpha (float): Weight of Pearson's distance. Defaults to 1.0.
        beta (float): Weight of Spearman's. Defaults to 1.0.
        difficulty (str | float): ``'entropy'``, or the same number in [0, 1] for
            every sample: 0 for Pearson alone, 1 for Spearman alone. Defaults to
            ``'entropy'``.
        tau (float): Temperature of the teacher's entropy; without effect on the
            distances. Defaults to 4.0.
        regularization (float): How soft the ranks are, see :func:`soft_ranks`; at 0
            Spearman's distance has no gradient. Defaults to 2.0.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.

    Raises:
        ValueError: a number is negative or not finite, ``tau`` is 0,
            ``regularization`` is above 0 and below 1e-12, or ``difficulty`` is
            neither ``'entropy'`` nor in [0, 1].
    """

    term_labels = {
        'pearson': (TermAxis.DISTANCE, 'pearson: of the class scores'),
        'spearman': (TermAxis.DISTANCE, 'spearman: of their soft ranks'),
        'difficulty': (
            TermAxis.SHARE,
            "difficulty: entropy of the teacher's softmax, in log C",
        ),
    }

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        difficulty: str | float = ENTROPY,
        tau: float = 4.0,
        regularization: float = 2.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        check_number(self, 'alpha', alpha)
        check_number(self, 'beta', beta)
        check_number(self, 'tau', tau, positive=True)
        check_regularization(regularization)
        if difficulty != ENTROPY:
            if isinstance(difficulty, str):
                raise ValueError(
                    f"difficulty must be 'entropy' or a number, got {difficulty!r}: "
                    f'set it in the config of {type(self).__name__}.'
                )
            check_number(self, 'difficulty', difficulty)
            if difficulty > 1:
                raise ValueError(
                    f'difficulty must be at most 1, got {difficulty}: 1 weights '
                    "Spearman's distance alone, 0 Pearson's."
                )
        self.alpha = alpha
        self.beta = beta
        self.difficulty = difficulty
        self.tau = tau
        self.regularization = regularization

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.

        Returns:
            Tensor: The loss, a float32 (or float64) scalar.

        Raises:
            TypeError: logits are no float tensors.
            ValueError: they are not (N, C), or the shapes differ.
        """
        preds_S, preds_T = checked_scores(preds_S, preds_T)
        pearson = pearson_distance(preds_S, preds_T)
        spearman = spearman_distance(preds_S, preds_T, self.regularization)
        if self.difficulty == ENTROPY:
            difficulty = normalized_entropy(preds_T, self.tau)
        else:
            difficulty = pearson.new_full((len(pearson),), self.difficulty)
        self.log_terms(pearson=pearson, spearman=spearman, difficulty=difficulty)
        rows = self.alpha * (1 - difficulty) * pearson
        rows = rows + self.beta * difficulty * spearman
        return self.loss_weight * batch_mean(rows)
