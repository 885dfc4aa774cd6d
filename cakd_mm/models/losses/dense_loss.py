"""A loss between class logits, applied to every place of a map."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from ..checks import check_float_tensor, is_count, kind_of
from ..statistics import RunningNorm
from .base import DistillLoss
from .functional.dense import Places, bilinear, label_rows, mean_by_parts, nearest
from .nested_loss import NestedLoss, arguments_of, built_loss


@MODELS.register_module()
class DenseLoss(NestedLoss):
    """Makes of a loss between logits, (N, C), one between maps of them, (N, C, H, W).

    The scores of each position are a row for ``loss``, as those of an image are. Rows
    whose label is ``ignore_index`` are left out, and value, terms and gradients are
    those of ``loss`` on all other rows. If there are none, the loss is 0::

        dict(type='DenseLoss', loss=dict(type='KDLoss', tau=1.0))

    The student's map sets the size. The teacher's scores come to it bilinearly, without
    aligned corners, as mmseg resizes scores before it takes the likeliest class. A
    label is that of the nearest place, because a mean of two classes is a third one.

    Maps may be large: 8 images of 512 x 1024 places with 19 classes are 80 million
    scores. Where the mean over all rows is what ``loss`` gives
    (:attr:`DistillLoss.mean_of_rows`: KD, DKD, NKD, and CAKD without scorer or
    ``gradient_shares``), parts of ``scores_at_once`` are computed one after the other,
    and once more for the gradient, which holds the student's map once. There KD takes
    723 MiB beside the maps on a CPU, and 4508 MiB in one part. Any other ``loss``, such
    as DIST, whose correlations need all rows, computes all at once.

    Each rank takes the mean over its own rows, of which it may have more or fewer than
    the others. With ``gt_labels`` and an ``ignore_index`` the host waits once in a step
    for a GPU, because only the GPU knows how many rows are left. Without labels, or
    with ``ignore_index=None``, it does not wait.

    A detector with A anchors at a position gives A * K channels, of which
    ``num_classes=K`` makes A rows; its head tells K. Such heads score classes by a
    sigmoid, for which there is :class:`SigmoidKDLoss`. The labels that an assigner
    gives to anchors are inside the head's own loss, where no recorder finds them. They
    suit both nets only if they follow from the boxes alone (RetinaNet, FCOS, ATSS), and
    not from the student's predictions (TOOD, SimOTA, DETR), because the teacher would
    be divided by the mistakes of the student. Therefore no method base feeds them. If
    you make such a map, K is the background, for :class:`SigmoidKDLoss`.

    Args:
        loss (dict | nn.Module): The loss, whose arguments are ``preds_S``, ``preds_T``
            and perhaps ``gt_labels``.
        ignore_index (int, optional): Label of the rows that are left out. Defaults to
            255; None takes all rows.
        num_classes (int, optional): Classes of a row, of which the number of channels
            is a multiple. Defaults to None: what the student's head says, if
            :func:`fill_widths` finds a tap of its scores, and else all channels.
        scores_at_once (int): How many scores of a net are computed at once, where
            parts are possible. Defaults to 4194304, 16 MiB in float32.
        loss_weight (float): Factor of the whole loss, beside that of ``loss``.
            Defaults to 1.0.

    Raises:
        TypeError: ``loss`` is no config of a loss.
        ValueError: ``loss`` needs more than rows of scores and labels, or a number is
            out of range.
    """

    def __init__(
        self,
        loss: dict | nn.Module,
        ignore_index: int | None = 255,
        num_classes: int | None = None,
        scores_at_once: int = 2**22,
        loss_weight: float = 1.0,
    ) -> None:
        made = built_loss(loss, type(self).__name__)
        super().__init__([made], loss_weight)
        self._check_loss(made)
        _check_integers(ignore_index, num_classes, scores_at_once)
        self.loss = made
        self.ignore_index = ignore_index
        self.num_classes = num_classes
        self.scores_at_once = scores_at_once
        self.term_labels = self.inner[0].term_labels

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Ask the student how many channels score one of its boxes."""
        return dict(num_classes='student_row_classes')

    def _check_loss(self, loss: nn.Module) -> None:
        """Refuse a loss that a row of scores is not enough for."""
        [inner] = self.inner
        known = 'preds_S', 'preds_T', 'gt_labels'
        more = [x for x, needed in arguments_of(loss).items() if needed]
        more = [x for x in more if x not in known]
        problem = ''
        if more:
            problem = f'It needs {" and ".join(more)}, which rows of a map have not.'
        elif inner.needs_dataset:
            problem = 'It knows images by their places in the training set, and a row '
            problem += 'is no image.'
        elif inner.views > 1:
            problem = f'It compares {inner.views} views of each image, and a row is no '
            problem += 'image.'
        if problem:
            remedy = "Write loss=dict(type='KDLoss'), say."
            raise ValueError(describe('loss', inner.class_name, problem, remedy))

    def forward(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's scores, (N, C, H, W), C = A * K.
            preds_T (Tensor): The teacher's, (N, C, H', W'); get no gradient.
            gt_labels (Tensor, optional): Classes, integers, (N, h, w) or (N, 1, h, w),
                or (N, A, h, w) with one of each anchor. Needed if ``loss`` needs them.

        Raises:
            TypeError: scores are no float tensors, or labels no integers.
            ValueError: shapes do not fit, labels are missing, or ``loss`` refuses its
                rows.
        """
        preds_S, preds_T, labels = self._fitting(preds_S, preds_T, gt_labels)
        places, labels = self._places(preds_S, labels)
        self.indices = None  # of images, which rows are not
        self.hand_on()
        in_parts = places.count * places.classes > self.scores_at_once
        if in_parts and self.inner[0].mean_of_rows:
            value = self._by_parts(preds_S, preds_T, places, labels)
        else:
            rows = places.all_rows(preds_S), places.all_rows(preds_T)
            value = self._of_rows(*rows, labels)
            self.log_terms(**self.inner[0].terms)
        if not places.count:
            # A mean of no rows is nan in losses of others.
            value = value.nan_to_num(0.0, 0.0, 0.0)
        return self.loss_weight * value

    @property
    def one_class(self) -> bool:
        """False, because the labels are those of places, whatever an image has."""
        return False

    @property
    def any_size(self) -> bool:
        """True, because scores are resized here."""
        return True

    @property
    def uses_indices(self) -> bool:
        """False, because a row is no image."""
        return False

    def norm_batches(
        self, inputs: Mapping[str, Any]
    ) -> list[tuple[RunningNorm, Tensor]]:
        """Return those of ``loss`` for its rows."""
        [inner] = self.inner
        if type(inner).norm_batches is DistillLoss.norm_batches:
            return []  # and the rows are not needed
        preds_S, preds_T, labels = self._fitting(**inputs)
        places, labels = self._places(preds_S, labels)
        rows_S, rows_T = places.all_rows(preds_S), places.all_rows(preds_T)
        return inner.norm_batches(self._fed(rows_S, rows_T, labels))

    def warning(self, terms: dict[str, float]) -> str | None:
        """Return that of ``loss``."""
        return self.inner[0].warning(terms)

    def _fitting(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Check what is fed; bring the teacher's scores and the labels to one size.

        The labels come back as (N, 1 or A, H, W).
        """
        for name, preds in (('preds_S', preds_S), ('preds_T', preds_T)):
            check_float_tensor(name, preds)
            if preds.dim() != 4:
                raise ValueError(
                    f'{name} has shape {tuple(preds.shape)}, expected (N, C, H, W): '
                    'tap a map of scores, or compute without DenseLoss.'
                )
        if preds_S.shape[:2] != preds_T.shape[:2]:
            raise ValueError(
                f'preds_S has shape {tuple(preds_S.shape)} and preds_T '
                f'{tuple(preds_T.shape)}: both nets must score the same classes of the '
                'same images. Set num_classes of both heads alike.'
            )
        size = preds_S.shape[2], preds_S.shape[3]
        anchors = self._anchors(preds_S)
        if gt_labels is not None:
            gt_labels = nearest(_checked_labels(gt_labels, preds_S, anchors), size)
        elif arguments_of(self.loss).get('gt_labels'):
            raise ValueError(
                f'gt_labels is missing, and {self.inner[0].class_name} needs the class '
                "of each place: write gt_labels=dict(recorder='gt_map', "
                'from_student=True) in loss_forward_mappings, with a recorder '
                "gt_map=dict(type='Tap', source='gt_map')."
            )
        return preds_S, bilinear(preds_T.detach(), size), gt_labels

    def _anchors(self, preds: Tensor) -> int:
        """Return A, how many rows a position has."""
        channels = preds.shape[1]
        classes = self.num_classes or channels
        if channels % classes:
            problem = f'The scores have {channels} channels, which is no multiple of '
            problem += f'it: preds_S is {tuple(preds.shape)}.'
            remedy = 'Write the number of classes of an anchor, or leave it out.'
            raise ValueError(describe('num_classes', classes, problem, remedy))
        return channels // classes

    def _places(
        self, preds: Tensor, labels: Tensor | None
    ) -> tuple[Places, Tensor | None]:
        """Return which rows are compared, and their labels, (count,)."""
        anchors = self._anchors(preds)
        classes = preds.shape[1] // anchors
        rows = preds.numel() // classes
        if labels is None:
            return Places(classes, rows, None), None
        labels = label_rows(labels, anchors)
        if self.ignore_index is None:
            return Places(classes, rows, None), labels
        # Here the host waits for the number of rows.
        index = (labels != self.ignore_index).nonzero().squeeze(1)
        return Places(classes, len(index), index), labels[index]

    def _by_parts(
        self, preds_S: Tensor, preds_T: Tensor, places: Places, labels: Tensor | None
    ) -> Tensor:
        """Return the mean over the rows, and log the terms of all parts."""
        terms: dict[str, Tensor] = {}
        value = mean_by_parts(
            partial(self._of_part, labels),
            preds_S,
            preds_T,
            places,
            self.scores_at_once,
            partial(self._add_terms, terms),
            [x for x in self.loss.parameters() if x.requires_grad],
        )
        self.log_terms(**terms)
        return value

    def _of_part(
        self, labels: Tensor | None, rows_S: Tensor, rows_T: Tensor, part: slice
    ) -> Tensor:
        return self._of_rows(rows_S, rows_T, None if labels is None else labels[part])

    def _add_terms(self, terms: dict[str, Tensor], share: float) -> None:
        """Add the terms of a part with this share of all rows."""
        for name, term in self.inner[0].terms.items():
            terms[name] = terms.get(name, 0) + share * term

    def _of_rows(self, rows_S: Tensor, rows_T: Tensor, labels: Tensor | None) -> Tensor:
        # Autocast is off, because it may be on in one of the two passes alone.
        with torch.autocast(rows_S.device.type, enabled=False):
            return self.loss(**self._fed(rows_S, rows_T, labels))

    def _fed(
        self, rows_S: Tensor, rows_T: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the arguments of ``loss``."""
        fed = dict(preds_S=rows_S, preds_T=rows_T)
        if labels is not None and 'gt_labels' in arguments_of(self.loss):
            fed['gt_labels'] = labels
        return fed


def _check_integers(ignore: Any, classes: Any, scores: Any) -> None:
    if ignore is not None and (not isinstance(ignore, int) or isinstance(ignore, bool)):
        problem = 'It is a label, an integer.'
        remedy = 'Write 255, say, or None to take all places.'
        raise ValueError(describe('ignore_index', ignore, problem, remedy))
    if classes is not None and not is_count(classes):
        problem = 'It counts the classes of a row.'
        remedy = 'Write an integer from 1 on, or leave it out.'
        raise ValueError(describe('num_classes', classes, problem, remedy))
    if not is_count(scores):
        problem = 'It counts the scores that are computed at once.'
        remedy = 'Write an integer from 1 on, 2**22 say.'
        raise ValueError(describe('scores_at_once', scores, problem, remedy))


def _checked_labels(labels: Tensor, preds: Tensor, anchors: int) -> Tensor:
    """Return a map of labels as (N, 1 or A, h, w)."""
    kind = kind_of(labels)
    is_float = isinstance(labels, Tensor) and labels.is_floating_point()
    if not isinstance(labels, Tensor) or is_float or labels.dtype == torch.bool:
        raise TypeError(
            f'gt_labels must be a map of integer class indices, got {kind}: record '
            "it with dict(type='Tap', source='gt_map')."
        )
    maps = labels.unsqueeze(1) if labels.dim() == 3 else labels
    fits = maps.dim() == 4 and len(maps) == len(preds) and maps.shape[1] in {1, anchors}
    if not fits or not (maps.numel() or not len(preds)):
        raise ValueError(
            f'gt_labels has shape {tuple(labels.shape)} for scores of shape '
            f'{tuple(preds.shape)}: give a map of classes (N, h, w) of the same images'
            + (f', or (N, {anchors}, h, w).' if anchors > 1 else '.')
        )
    return maps
