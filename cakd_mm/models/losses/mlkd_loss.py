"""Multi-level logit distillation over a weak and a strong view of each image."""

from collections.abc import Sequence

from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number, checked_scores
from ..term_axis import TermAxis
from .functional import batch_mean
from .functional.ctkd import tempered_kl
from .functional.mlkd import (
    batch_gap,
    class_gap,
    probabilities,
    share_up_to_median,
)
from .logit_loss import LogitLoss


@MODELS.register_module()
class MLKDLoss(LogitLoss):
    r"""MLKD between the class logits of student and teacher, of two views.

    "Multi-Level Logit Distillation", CVPR 2023. A batch holds a weakly augmented view
    of each of N images and then a strongly augmented one, see the guide "Two views".
    Predictions are compared by themselves (KL), and by how they relate the classes
    (:func:`class_gap`, G) and the images (:func:`batch_gap`, B), at temperatures t:

    .. math::
        L = \sum_{t \in W} \left( s \, KL_t^{weak} + r \, G_t^{weak} + s \, B_t^{weak}
        \right) + \sum_{t \in \{\tau\} \cup taus} KL_t^{strong}
        + \sum_{t \in weak\_taus} KL_t^{weak}

    W are all temperatures together, and KL has the factor :math:`t^2`. s is the share
    of images whose highest probability by the teacher, at temperature 1, is not above
    the median; r is the same of the classes by the sum of their probabilities. The
    shares are usually a half: the public code averages over such a mask after it has
    averaged over the images. At ``weak_taus`` it compares the weak view twice, and the
    strong one never. This loss computes what that code computes.

    The last two levels grow with the number of images, so that the loss of a batch is
    no mean over its images, and two ranks do not compute what one does of all images.
    ``terms`` holds the last step's three levels without weights, and s as ``share``.

    Args:
        tau (float): Temperature at which both views are compared. Defaults to 4.0.
        taus (Sequence[float]): Others of that kind. Defaults to ``(3.0, 5.0)``.
        weak_taus (Sequence[float]): Temperatures of the weak view alone. Defaults to
            ``(2.0, 6.0)``.
        class_weight (float): Weight of the relations of classes. Defaults to 1.0.
        batch_weight (float): Weight of the relations of images. Defaults to 1.0.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation (arXiv 2403.01427), see
            :class:`LogitLoss`, of the divergences alone, as in its public code.
            Defaults to False.

    Raises:
        TypeError: temperatures are no sequence.
        ValueError: a number is out of range.
    """

    views = 2
    term_labels = {
        'instance': (TermAxis.DIVERGENCE, 'instance: of each image, all temperatures'),
        'class_level': (TermAxis.SQUARED, 'class_level: of the relations of classes'),
        'batch_level': (TermAxis.SQUARED, 'batch_level: of the relations of images'),
        'share': (TermAxis.SHARE, 'share: of images no surer than the median'),
    }

    def __init__(
        self,
        tau: float = 4.0,
        taus: Sequence[float] = (3.0, 5.0),
        weak_taus: Sequence[float] = (2.0, 6.0),
        class_weight: float = 1.0,
        batch_weight: float = 1.0,
        loss_weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'class_weight', class_weight)
        check_number(self, 'batch_weight', batch_weight)
        self.tau = tau
        self.taus = self._checked('taus', taus)
        self.weak_taus = self._checked('weak_taus', weak_taus)
        self.class_weight = class_weight
        self.batch_weight = batch_weight

    def _checked(self, name: str, taus: Sequence[float]) -> tuple[float, ...]:
        if not isinstance(taus, (list, tuple)):
            raise TypeError(
                f'{name} must be a list of temperatures, got {taus!r}: write '
                f'{name}=[3.0, 5.0] in the config of MLKDLoss, say, or [] for none.'
            )
        for tau in taus:
            check_number(self, name, tau, positive=True)
        return tuple(taus)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (2 N, C): those of the weak view
                of each image, and then those of the strong view.
            preds_T (Tensor): The teacher's logits, (2 N, C); get no gradient.

        Raises:
            TypeError: logits have the wrong dtype.
            ValueError: shapes do not fit, or the number of rows is odd.
        """
        compared = self.scores(preds_S, preds_T)
        preds_S, preds_T = checked_scores(preds_S, preds_T)
        if len(preds_S) % self.views:
            raise ValueError(
                f'preds_S has {len(preds_S)} rows, and MLKDLoss compares two views of '
                "each image: write dict(type='MultiView', ...) in "
                'train_dataloader.dataset.pipeline, see the guide "Two views".'
            )
        (weak_S, strong_S), (weak_T, strong_T) = (x.chunk(2) for x in compared)
        both, weak = (self.tau, *self.taus), self.weak_taus
        student, teacher = (x.chunk(2)[0] for x in (preds_S, preds_T))
        sure = probabilities(teacher, 1.0)
        share = share_up_to_median(sure.amax(-1))
        class_share = share_up_to_median(sure.sum(0))

        instance = share * _divergence(weak_S, weak_T, (*both, *weak))
        instance = instance + _divergence(strong_S, strong_T, both)
        instance = instance + _divergence(weak_S, weak_T, weak)
        class_level = class_share * sum(
            class_gap(student, teacher, tau) for tau in (*both, *weak)
        )
        batch_level = share * sum(
            batch_gap(student, teacher, tau) for tau in (*both, *weak)
        )
        self.log_terms(
            instance=instance,
            class_level=class_level,
            batch_level=batch_level,
            share=share,
        )
        return self.loss_weight * (
            instance + self.class_weight * class_level + self.batch_weight * batch_level
        )


def _divergence(preds_S: Tensor, preds_T: Tensor, taus: Sequence[float]) -> Tensor:
    """Return the sum over temperatures of ``tau**2 * KL``, the mean over the rows."""
    rows = preds_S.new_zeros(len(preds_S))
    for tau in taus:
        # It is made on the device, because a copy would make the host wait.
        temperature = preds_S.new_full((), tau)
        rows = rows + tempered_kl(preds_S, preds_T, temperature).to(preds_S.dtype)
    return batch_mean(rows)
