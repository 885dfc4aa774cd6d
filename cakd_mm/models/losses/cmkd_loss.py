"""CMKD between class logits."""

from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number
from ..term_axis import TermAxis
from .functional import batch_mean, pearson_distance, spearman_distance
from .functional.cmkd import check_regularization
from .functional.nkd import normalized_entropy
from .logit_loss import LogitLoss

ENTROPY = 'entropy'


@MODELS.register_module()
class CMKDLoss(LogitLoss):
    r"""Correlation matching between the class logits of student and teacher.

    After "Efficient and Robust Knowledge Distillation from A Stronger Teacher Based
    on Correlation Matching", arXiv 2410.06561. The paper lowers 1 - Pearson's and
    1 - Spearman's correlation of the class scores of both nets and weights them by the
    sample's difficulty. This is a reconstruction, because there is no public code and
    only the abstract was available. The rest is chosen here:

    .. math:: L = mean(\alpha \, (1 - d) \, Pearson + \beta \, d \, Spearman)

    The difficulty d of a sample is the entropy of the teacher's softmax at ``tau`` in
    units of log C: 0 if the teacher is sure of one class, 1 for equal classes. The
    ranks are soft, see :func:`soft_ranks`. There is no factor ``tau**2``, because
    neither distance depends on the scale of the logits. The mean is over the samples
    of the batch. A net with equal scores for all classes has both distances 1 and no
    gradient.

    ``terms`` holds the last step's mean ``pearson`` and ``spearman`` distances and
    ``difficulty``, without weights.

    Args:
        alpha (float): Weight of Pearson's distance. Defaults to 1.0.
        beta (float): Weight of Spearman's. Defaults to 1.0.
        difficulty (str | float): ``'entropy'``, or one number in [0, 1] for all
            samples: 0 for Pearson alone, 1 for Spearman alone. Defaults to
            ``'entropy'``.
        tau (float): Temperature of the teacher's entropy only. Defaults to 4.0.
        regularization (float): How soft the ranks are, see :func:`soft_ranks`; at 0
            Spearman's distance has no gradient. Defaults to 2.0.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. It changes
            the difficulty alone, because both correlations are those of
            standardised rows already. Defaults to False.

    Raises:
        ValueError: a number is out of range, ``regularization`` is neither 0 nor
            from 1e-6 to 1e6, or ``difficulty`` is neither ``'entropy'`` nor in
            [0, 1].
    """

    mean_of_rows = True
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
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'alpha', alpha)
        check_number(self, 'beta', beta)
        check_number(self, 'tau', tau, positive=True)
        check_regularization(regularization)
        if not isinstance(difficulty, str):
            check_number(self, 'difficulty', difficulty)
            if difficulty > 1:
                raise ValueError(
                    f'difficulty must be at most 1, got {difficulty}: 1 weights '
                    "Spearman's distance alone, 0 Pearson's."
                )
        elif difficulty != ENTROPY:
            raise ValueError(
                f"difficulty must be 'entropy' or a number, got {difficulty!r}: set it "
                f'in the config of {type(self).__name__}.'
            )
        self.alpha = alpha
        self.beta = beta
        self.difficulty = difficulty
        self.tau = tau
        self.regularization = regularization

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.

        Raises:
            TypeError: logits are no float tensors.
            ValueError: they are not (N, C), or the shapes differ.
        """
        preds_S, preds_T = self.scores(preds_S, preds_T)
        pearson = pearson_distance(preds_S, preds_T)
        spearman = spearman_distance(preds_S, preds_T, self.regularization)
        if isinstance(self.difficulty, str):
            difficulty = normalized_entropy(preds_T, self.tau)
        else:
            difficulty = pearson.new_full((len(pearson),), self.difficulty)
        self.log_terms(pearson=pearson, spearman=spearman, difficulty=difficulty)
        rows = self.alpha * (1 - difficulty) * pearson
        rows = rows + self.beta * difficulty * spearman
        return self.loss_weight * batch_mean(rows)
