"""CAKD between class logits."""

from collections.abc import Mapping
from typing import Any

from mmrazor.registry import MODELS
from torch import Tensor

from ...utils.compiling import compiled
from ...utils.errors import describe
from ...utils.type_names import class_name
from ..checks import check_classes, check_number, class_indices, is_count, is_number
from ..scorers.base_scorer import BaseScorer, built_scorer
from ..scorers.image_numbers import tell_images
from ..term_axis import CLUSTER_TERMS
from .functional import cluster_terms, single_label_kl_and_terms, weighted_kl
from .functional.cakd import label_and_others, two_clusters
from .functional.label_clusters import counts_by_mass, label_cluster
from .gradient_shares import SHARE_TERMS, GradientShares
from .logit_loss import LogitLoss


@MODELS.register_module()
class CAKDLogitLoss(LogitLoss):
    r"""CAKD between the class logits of student and teacher.

    "CAKD: A Correlation-Aware Knowledge Distillation Framework Based on
    Decoupling Kullback-Leibler Divergence", arXiv 2410.14741, Eq. 7-9. The
    labelled classes are the strong cluster, all others the weak one, and

    .. math:: L = \tau^2 \, mean(\alpha BCD + \beta SCD + \gamma WCD)

    with the mean over the samples of the batch. With one label per sample SCD is 0,
    and the loss is DKD (arXiv 2203.08679) with ``beta=gamma``. ``terms`` holds the
    last step's ``bcd``, ``scd`` and ``wcd``, with ``tau**2`` and no weight, and
    ``strong_mass``, the teacher's probability of the labels.

    Beyond the paper, ``strong_classes`` or ``strong_mass`` put the teacher's likeliest
    other classes beside the label into the strong cluster, so that SCD has something
    to compare. ``scorer`` ranks them otherwise; ``RandomScorer`` is the control, whose
    clusters are as large and mean nothing.

    Args:
        tau (float): Temperature that divides the logits. Defaults to 4.0.
        alpha (float): Weight of BCD, between the clusters. Defaults to 1.0.
        beta (float): Weight of SCD, within the strong cluster; without effect where
            that is the label alone. Defaults to 1.0.
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
        strong_classes (int): Classes in the strong cluster: the label, and the
            teacher's likeliest others. Defaults to 1, the paper's form.
        strong_mass (float, optional): What the strong cluster holds at least of the
            teacher's probability at ``tau``, in (0, 1), in place of
            ``strong_classes``: the label, and as many of the teacher's likeliest
            others as that takes. One class stays weak. Defaults to None.
        scorer (dict | BaseScorer, optional): What ranks the other classes of the
            strong cluster by the teacher's logits. With ``strong_mass`` there are as
            many of them as of the likeliest. Defaults to None, the logits themselves.
        gradient_shares (dict, optional): Shares of ``bcd``, ``scd`` and ``wcd`` in the
            gradient, see :class:`GradientShares`. Defaults to None: ``alpha``,
            ``beta`` and ``gamma`` are the weights.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. Defaults to
            False.

    Raises:
        ValueError: a number is out of range, ``soft_labels`` is unknown, or settings
            of the strong cluster contradict each other.
    """

    term_labels = {**CLUSTER_TERMS, **SHARE_TERMS}

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
        strong_classes: int = 1,
        strong_mass: float | None = None,
        scorer: dict | BaseScorer | None = None,
        gradient_shares: Mapping[str, float] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'alpha', alpha)
        check_number(self, 'beta', beta)
        check_number(self, 'gamma', gamma)
        if soft_labels not in ('argmax', 'refuse'):
            raise ValueError(
                f"soft_labels must be 'argmax' or 'refuse', got {soft_labels!r}."
            )
        _check_cluster(strong_classes, strong_mass, multi_label)
        several = strong_classes > 1 or strong_mass is not None
        self.scorer: BaseScorer | None = None
        if scorer is not None:
            self.scorer = built_scorer(scorer)
            _check_scorer(self.scorer, several)
        self.shares: GradientShares | None = None
        if gradient_shares is not None:
            self.shares = GradientShares(gradient_shares, type(self).__name__)
            if gradient_shares['scd'] == 1 and not (several or multi_label):
                problem = 'SCD of the label alone has no gradient.'
                remedy = 'Set strong_classes=3, say, or other shares.'
                raise ValueError(
                    describe('gradient_shares', gradient_shares, problem, remedy)
                )
        self.tau = tau
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.multi_label = multi_label
        self.soft_labels = soft_labels
        self.strong_classes = strong_classes
        self.strong_mass = strong_mass
        self.compiled = compile
        self._label_alone = not (multi_label or several or gradient_shares)
        self._function = label_and_others if self._label_alone else two_clusters
        if compile:
            self._function = compiled(
                self._function, 'compile', largest_alone=True, fullgraph=True
            )

    @classmethod
    def describe_clusters(cls, cfg: Mapping) -> str:
        """Say what is strong."""
        mass, count = cfg.get('strong_mass'), cfg.get('strong_classes', 1)
        if mass is None and count == 1:
            return 'strong = the labelled class, weak = all others'
        number = f'{count - 1}' if mass is None else 'as many'
        held = '' if mass is None else f', which hold {100 * mass:g} % together'
        others = f"{number} of the teacher's likeliest others{held}"
        if cfg.get('scorer'):
            # These hold another share, because only their number follows the teacher.
            others = f'{number} others, ranked by {class_name(cfg["scorer"]["type"])}'
        return f'strong = the labelled class and {others}'

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
        preds_S, preds_T = self.scores(preds_S, preds_T)
        scale = self.loss_weight * self.tau**2
        if self._label_alone:
            labels = self._labels(gt_labels, preds_S)
            loss, divergences = single_label_kl_and_terms(
                preds_S,
                preds_T,
                labels,
                self.tau,
                scale * self.alpha,
                scale * self.gamma,
                self._function,
            )
        else:
            mask = self._strong(gt_labels, preds_T)
            weights: Any = (self.alpha, self.beta, self.gamma)
            if self.shares is not None:
                weights = self.shares(preds_S, preds_T, mask, self.tau, weights)
                self.log_terms(**dict(zip(SHARE_TERMS, weights, strict=True)))
            alpha, beta, gamma = (scale * weight for weight in weights)
            loss, divergences = weighted_kl(
                preds_S, preds_T, mask, self.tau, alpha, beta, gamma, self._function
            )
        self._own_rows = divergences.rows()
        return loss

    @property
    def one_class(self) -> bool:
        """True unless ``multi_label``."""
        return not self.multi_label

    @property
    def mean_of_rows(self) -> bool:
        """True without scorer and ``gradient_shares``, which see the whole batch."""
        return self.scorer is None and self.shares is None

    @property
    def uses_indices(self) -> bool:
        """Whether the scorer tells images apart."""
        return self.scorer is not None and self.scorer.by_image

    def terms_of(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return means, those of divergences with ``tau**2``."""
        return cluster_terms(rows, self.tau**2)

    def _strong(self, gt_labels: Tensor, preds_T: Tensor) -> Tensor:
        """Return which classes are strong, bool (N, C).

        Raises:
            ValueError: no class would be weak, or as :meth:`forward` says.
        """
        if self.multi_label:
            return self._mask(gt_labels, preds_T)
        labels = self._labels(gt_labels, preds_T)
        check_classes(labels, preds_T)
        count: int | Tensor = self.strong_classes
        if self.strong_mass is not None:
            count = counts_by_mass(preds_T, labels, self.strong_mass, self.tau)
        elif 1 < self.strong_classes >= preds_T.shape[-1]:
            problem = f'There are {preds_T.shape[-1]} classes, and none would be weak.'
            remedy = f'Write an integer from 1 to {max(preds_T.shape[-1] - 1, 1)}.'
            key = f'strong_classes of {type(self).__name__}'
            raise ValueError(describe(key, self.strong_classes, problem, remedy))
        return label_cluster(self._ranking(preds_T), labels, count)

    def _ranking(self, preds_T: Tensor) -> Tensor:
        """Return a number of each class, the higher the sooner strong, (N, C)."""
        if self.scorer is None:
            return preds_T
        indices, self.indices = self.indices, None
        tell_images(self.scorer, indices, preds_T)
        return self.scorer(preds_T)

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


def _check_cluster(count: int, mass: float | None, multi_label: bool) -> None:
    if not is_count(count):
        problem = 'It counts the label and the classes beside it.'
        raise ValueError(
            describe('strong_classes', count, problem, 'Write an integer from 1 on.')
        )
    if mass is not None and not (is_number(mass) and 0 < mass < 1):
        problem = 'It is a share of the probability.'
        remedy = 'Write a number between 0 and 1, 0.9 say.'
        raise ValueError(describe('strong_mass', mass, problem, remedy))
    if mass is not None and count != 1:
        problem = 'strong_mass says how many classes are strong, too.'
        raise ValueError(
            describe('strong_classes', count, problem, 'Leave out one of the two.')
        )
    if multi_label and (mass is not None or count != 1):
        key, value = ('strong_mass', mass) if count == 1 else ('strong_classes', count)
        problem = 'With multi_label=True the labels are the strong cluster.'
        raise ValueError(describe(key, value, problem, 'Leave out one of the two.'))


def _check_scorer(scorer: BaseScorer, several: bool) -> None:
    name = type(scorer).__name__
    if not several:
        problem = 'It ranks the classes beside the label, and there are none.'
        remedy = 'Set strong_classes=3, say, or leave it out.'
        raise ValueError(describe('scorer', name, problem, remedy))
    if scorer.needs or not scorer.elementwise:
        problem = 'It needs more than the logits that it has to rank.'
        remedy = "Write dict(type='RandomScorer'), or leave it out."
        raise ValueError(describe('scorer', name, problem, remedy))
