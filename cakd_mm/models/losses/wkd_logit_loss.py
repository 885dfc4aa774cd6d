"""WKD-L: a Wasserstein distance between class probabilities."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import (
    check_classes,
    check_float_tensor,
    check_number,
    class_indices,
    is_count,
)
from ..term_axis import TermAxis
from .decaying_loss import DECAY_TERM, DecayingLoss
from .functional import batch_mean
from .functional.wkd import costs_of_weights, wasserstein_kd
from .logit_loss import LogitLoss

# exp(-1 / entropy_weight) and what is divided by it have to be numbers in float32.
LEAST_ENTROPY_WEIGHT = 0.02


@MODELS.register_module()
class WKDLogitLoss(DecayingLoss, LogitLoss):
    r"""Wasserstein distance between the class logits of student and teacher.

    "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge
    Distillation", arXiv 2412.08139, WKD-L. ``target`` is the label's cross entropy
    times the teacher's probability of it, at temperature 1. ``transport`` is what it
    costs to move the student's probabilities of the other classes, at ``tau``, to the
    teacher's. To move mass between similar classes costs little. See
    :func:`wasserstein_kd`.

    .. math:: L = mean(target + \gamma \, d \, transport)

    L is not 0 for equal nets, because ``target`` is a cross entropy. d is 1, or falls
    along half a cosine from 1 to 0 between the epochs ``decay_from`` and ``decay_to``,
    which come from :class:`DistillEpochHook`. The costs follow from the weight of the
    teacher's classifier, see :func:`costs_of_weights`.

    ``terms`` holds the last step's ``target``, ``transport``, which is from 0 to 1, and
    ``decay``, which is d, if it falls.

    Args:
        tau (float): Temperature of the other classes. Defaults to 2.0.
        gamma (float): Weight of the transport. Defaults to 30.0.
        sharpness (float): How fast a cost rises to 1 as two classes differ. Defaults
            to 1.0.
        entropy_weight (float): Factor of the entropy, at least 0.02. A smaller one
            gives a distance nearer to the exact one, for which more iterations are
            needed. Defaults to 0.05.
        iterations (int): Iterations of Sinkhorn's. Defaults to 10.
        decay_from (int, optional): Epochs with the whole ``gamma``. Defaults to None,
            all of them.
        decay_to (int, optional): The epoch, counted from 1, in which ``gamma`` has
            come to 0, normally the last. Defaults to None.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. Defaults to
            False.

    Raises:
        ValueError: a number is out of range.
    """

    one_class = True
    term_labels = {
        'target': (
            TermAxis.CROSS_ENTROPY,
            "target: of the label, times the teacher's probability",
        ),
        'transport': (TermAxis.TRANSPORT, 'transport: between the other classes'),
        **DECAY_TERM,
    }

    def __init__(
        self,
        tau: float = 2.0,
        gamma: float = 30.0,
        sharpness: float = 1.0,
        entropy_weight: float = 0.05,
        iterations: int = 10,
        decay_from: int | None = None,
        decay_to: int | None = None,
        loss_weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'gamma', gamma)
        check_number(self, 'sharpness', sharpness, positive=True)
        check_number(self, 'entropy_weight', entropy_weight, positive=True)
        if entropy_weight < LEAST_ENTROPY_WEIGHT:
            raise ValueError(
                f'entropy_weight must be at least {LEAST_ENTROPY_WEIGHT}, got '
                f'{entropy_weight!r}: exp(-1 / entropy_weight) would vanish in '
                'float32. Write entropy_weight=0.05, say, in the config of '
                'WKDLogitLoss.'
            )
        if not is_count(iterations):
            raise ValueError(
                f'iterations must be a positive integer, got {iterations!r}: set '
                'iterations in the config of WKDLogitLoss; 10 is the original.'
            )
        self.set_decay(decay_from, decay_to)
        self.tau = tau
        self.gamma = gamma
        self.sharpness = sharpness
        self.entropy_weight = entropy_weight
        self.iterations = iterations

    def forward(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor, head_weight: Tensor
    ) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.
            gt_labels (Tensor): Class indices, (N,), or label scores, (N, C). The
                highest score gives the class (mixup, CutMix).
            head_weight (Tensor): Weight of the teacher's classifier, (C, D); gets no
                gradient.

        Raises:
            TypeError: logits, weight or class indices have the wrong dtype.
            ValueError: shapes do not fit, labels are not classes, a row of scores
                marks several with 1 (see :func:`class_indices`), or a step of
                training has no epoch for the decay.
        """
        preds_S, preds_T = self.scores(preds_S, preds_T)
        labels = class_indices(gt_labels, preds_S)
        check_classes(labels, preds_S)
        weight = _checked_weight(head_weight, preds_S)
        # Autocast is off, because it would multiply matrices in half precision.
        with torch.autocast(preds_S.device.type, enabled=False):
            target, transport = wasserstein_kd(
                preds_S,
                preds_T,
                labels,
                costs_of_weights(weight, self.sharpness),
                self.tau,
                self.entropy_weight,
                self.iterations,
            )
        self.log_terms(target=target, transport=transport, **self.decay_term(target))
        gamma = self.gamma * self.decay
        return self.loss_weight * batch_mean(target + gamma * transport)


def _checked_weight(head_weight: Tensor | None, preds: Tensor) -> Tensor:
    """Return the weight, (C, D), in the precision of the logits, (N, C)."""
    if head_weight is None:  # as recorded where a net has no such layer
        raise ValueError(
            'head_weight is None, and WKDLogitLoss needs the weight of a classifier. '
            'The teacher has none there: of several teachers name one, '
            "head_weight=dict(source='a.classifier.weight') among the "
            'teacher_recorders; for a classifier without one weight take '
            'WKDFeatureLoss, say.'
        )
    check_float_tensor('head_weight', head_weight)
    if head_weight.dim() != 2 or len(head_weight) != preds.shape[1]:
        raise ValueError(
            f'head_weight has shape {tuple(head_weight.shape)} for '
            f"{preds.shape[1]} classes: feed the weight of the teacher's classifier, "
            "(classes, features), with head_weight=dict(type='TapParameter', "
            "source='classifier.weight') among the teacher_recorders."
        )
    return head_weight.to(preds.dtype)
