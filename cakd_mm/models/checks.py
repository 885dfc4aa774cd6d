"""Checks of settings, scores and labels that several losses share."""

import math
from numbers import Real

import torch
from torch import Tensor


def check_number(owner, name: str, value: float, positive: bool = False) -> None:
    """Raise ValueError unless ``value`` is a finite number, >= 0 or, if asked, > 0.

    ``owner`` is the loss whose config sets ``name``.
    """
    rule = 'a positive' if positive else 'a non-negative'
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf or (positive and value == 0):
        raise ValueError(
            f'{name} must be {rule}, finite number, got {value!r}: set {name} '
            f'in the config of {type(owner).__name__}.'
        )


def refuse_several_labels(rows: Tensor, key: str) -> None:
    """Raise ValueError if a row of label scores, (N, K), marks several classes with 1.

    Only values on the CPU are looked at: reading a GPU's would stop it. ``key`` is
    the setting that allows such rows.
    """
    if rows.device.type == 'cpu' and ((rows >= 1).sum(1) > 1).any():
        raise ValueError(
            'gt_labels has rows that mark several classes with 1, which mixup and '
            f'CutMix never do: set {key}=True.'
        )


def check_tau(tau: float) -> None:
    """Raise TypeError or ValueError unless ``tau`` is a positive, finite number."""
    if type(tau) is not float and (not isinstance(tau, Real) or isinstance(tau, bool)):
        raise TypeError(f'tau must be a number, got {tau!r}; write tau=4.0, say.')
    if not 0 < tau < math.inf:
        raise ValueError(
            f'tau must be positive and finite, got {tau}; write tau=4.0, say.'
        )


def kind_of(value) -> str:
    """Return a tensor's dtype, or the type of anything else."""
    return str(getattr(value, 'dtype', type(value).__name__))


def checked_scores(preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
    """Check rows of scores, (N, C); return them in the precision to compute in.

    That is float32 unless one is float64. The teacher's come back detached.

    Raises:
        TypeError: one is no float tensor.
        ValueError: one is not (N, C), or the shapes differ.
    """
    for name, preds in (('preds_S', preds_S), ('preds_T', preds_T)):
        if not isinstance(preds, Tensor) or not preds.is_floating_point():
            raise TypeError(
                f'{name} must be a float tensor, got {kind_of(preds)}: of a module '
                'that returns a tuple write data_idx=0 in loss_forward_mappings.'
            )
        if preds.dim() != 2:
            raise ValueError(
                f'{name} has shape {tuple(preds.shape)}, expected (N, C): pool or '
                'reshape it to one row of scores per sample.'
            )
    if preds_S.shape != preds_T.shape:
        raise ValueError(
            f'preds_S has shape {tuple(preds_S.shape)} and preds_T '
            f'{tuple(preds_T.shape)}: student and teacher must score the same '
            'classes of the same samples. Set num_classes alike in '
            'model.architecture.head and model.teacher.head (logits), or put a '
            "connector to the teacher's size on the student (features)."
        )
    double = torch.float64 in (preds_S.dtype, preds_T.dtype)
    dtype = torch.float64 if double else torch.float32
    # no call that would change nothing: a small batch pays for each
    student = preds_S if preds_S.dtype == dtype else preds_S.to(dtype)
    teacher = preds_T if preds_T.dtype == dtype else preds_T.to(dtype)
    return student, teacher.detach() if teacher.requires_grad else teacher


def class_indices(
    gt_labels: Tensor,
    preds: Tensor,
    several: str = "type='CAKDLogitLoss' and multi_label",
) -> Tensor:
    """Return one class per sample, int64 (N,).

    Args:
        gt_labels (Tensor): Class indices, (N,), or label scores, (N, C), of which
            the highest counts (mixup, CutMix).
        preds (Tensor): Scores of the classes, (N, C).
        several (str): Setting that allows rows that mark several classes. Defaults
            to those of the one logit loss that has such a setting.

    Raises:
        TypeError: class indices are no integers.
        ValueError: shapes do not fit, or a row marks several with 1. Only values on
            the CPU are looked at: reading a GPU's would stop it. Indices are not
            looked at: see :func:`check_classes`.
    """
    if gt_labels.dim() == 2:
        return _highest(gt_labels, preds, several)
    if gt_labels.shape != preds.shape[:1]:
        raise ValueError(
            f'gt_labels has shape {tuple(gt_labels.shape)} for logits of shape '
            f'{tuple(preds.shape)}: give one class index per sample.'
        )
    if gt_labels.is_floating_point() or gt_labels.dtype == torch.bool:
        raise TypeError(
            f'gt_labels must be integer class indices, got {gt_labels.dtype}; '
            'rows of label scores have the shape (N, C).'
        )
    return gt_labels if gt_labels.dtype == torch.int64 else gt_labels.long()


def check_classes(labels: Tensor, preds: Tensor) -> None:
    """Raise ValueError if a class index, (N,), is none of those scored, (N, C).

    Only values on the CPU are looked at: reading a GPU's would stop it.
    """
    if labels.device.type == 'cpu' and len(labels):
        low, high = (value.item() for value in labels.aminmax())
        if low < 0 or high >= preds.shape[-1]:
            raise ValueError(
                f'gt_labels holds {low if low < 0 else high}, but there are '
                f'{preds.shape[-1]} classes: set num_classes of both heads to '
                'that of the dataset, and number labels from 0.'
            )


def _highest(gt_labels: Tensor, preds: Tensor, several: str) -> Tensor:
    if gt_labels.shape != preds.shape:
        raise ValueError(
            f'gt_labels has shape {tuple(gt_labels.shape)} for logits of shape '
            f'{tuple(preds.shape)}: rows of label scores need one per class; set '
            'num_classes of the heads or of the label augmentation alike.'
        )
    rows = gt_labels.to(torch.float32)  # argmax knows no bool
    refuse_several_labels(rows, several)
    return rows.argmax(1)
