"""Checks of settings, scores and labels that several losses share.

Values on a GPU are never checked, because the host would have to wait for them.
"""

from numbers import Real
from typing import Any, TypeGuard

import torch
from torch import Tensor

# Up to this absolute value of scores and features every loss, its terms and its
# gradients are finite. Some losses square a feature, add up the squares of a map and
# multiply the sum by a weight, which float32 has to hold.
LARGEST_INPUT = 1e12
# The range of settings for which this is true; a weight may also be 0.
LEAST_SETTING, LARGEST_SETTING = 1e-6, 1e6


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether ``value`` is a real number, which a bool is not."""
    # The type comes first, because it is far faster to compare than Real.
    return type(value) is float or (
        isinstance(value, Real) and not isinstance(value, bool)
    )


def is_count(value: Any, least: int = 1) -> TypeGuard[int]:
    """Return whether ``value`` is an integer, no bool, and at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_epoch(epoch: int) -> None:
    """Raise ValueError unless ``epoch`` is an integer from 0 on."""
    if not is_count(epoch, least=0):
        raise ValueError(
            f'epoch must be an integer from 0 on, got {epoch!r}: pass runner.epoch.'
        )


def check_number(owner, name: str, value: float, positive: bool = False) -> None:
    """Raise ValueError unless ``value`` is a number from 0 to 1e6.

    If it has to be positive, it is at least 1e-6. ``owner`` is the loss whose config
    sets ``name``.
    """
    kind, least = ('positive', LEAST_SETTING) if positive else ('non-negative', 0)
    if not is_number(value) or not least <= value <= LARGEST_SETTING:
        raise ValueError(
            f'{name} must be a {kind} number from {least:g} to {LARGEST_SETTING:g}, '
            f'got {value!r}: set {name} in the config of {type(owner).__name__}.'
        )


def refuse_several_labels(rows: Tensor, key: str) -> None:
    """Raise ValueError if a row of label scores, (N, K), marks several classes with 1.

    ``key`` is the setting that allows such rows.
    """
    if rows.device.type == 'cpu' and ((rows >= 1).sum(1) > 1).any():
        raise ValueError(
            'gt_labels has rows that mark several classes with 1, which mixup and '
            f'CutMix never do: set {key}=True.'
        )


def refuse_unlabelled_rows(rows: Tensor, key: str) -> None:
    """Raise ValueError if a row of label scores, (N, K), marks no class.

    ``key`` is the setting that allows such rows.
    """
    if rows.device.type == 'cpu' and (rows <= 0).all(1).any():
        raise ValueError(
            'gt_labels has rows that mark no class, which are not of class 0: give '
            f'every image one label, set {key}=True, or take a loss without labels, '
            'such as SigmoidKDLoss.'
        )


def check_tau(tau: float) -> None:
    """Raise TypeError or ValueError unless ``tau`` is a number from 1e-6 to 1e6."""
    if not is_number(tau):
        raise TypeError(f'tau must be a number, got {tau!r}; write tau=4.0, say.')
    if not LEAST_SETTING <= tau <= LARGEST_SETTING:
        raise ValueError(
            f'tau must be positive, from {LEAST_SETTING:g} to {LARGEST_SETTING:g}, got '
            f'{tau}; write tau=4.0, say.'
        )


def is_float_tensor(value: Any) -> TypeGuard[Tensor]:
    """Return whether ``value`` is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def kind_of(value: Any) -> str:
    """Return a tensor's dtype, or the type of anything else."""
    return str(getattr(value, 'dtype', type(value).__name__))


def check_float_tensor(name: str, value: Any, remedy: str = 'data_idx=0') -> None:
    """Raise TypeError unless the argument ``name`` of a loss is a float tensor.

    ``remedy`` is the setting with which a recorder finds the tensor in a tuple.
    """
    if not is_float_tensor(value):
        raise TypeError(
            f'{name} must be a float tensor, got {kind_of(value)}: tap one tensor; of '
            f'a module that returns a tuple write {remedy} in loss_forward_mappings.'
        )


def checked_scores(preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
    """Check rows of scores, (N, C); return them in the precision to compute in.

    That is float32 unless one is float64. The teacher's come back detached.

    Raises:
        TypeError: one is no float tensor.
        ValueError: one is not (N, C), or the shapes differ.
    """
    for name, preds in (('preds_S', preds_S), ('preds_T', preds_T)):
        check_float_tensor(name, preds)
        if preds.dim() != 2:
            raise ValueError(
                f'{name} has shape {tuple(preds.shape)}, expected (N, C): pool or '
                'reshape it to one row of scores per sample.'
            )
    if preds_S.shape != preds_T.shape:
        raise ValueError(
            f'preds_S has shape {tuple(preds_S.shape)} and preds_T '
            f'{tuple(preds_T.shape)}: student and teacher must score the same '
            'classes of the same samples. Set num_classes (num_labels of a Hugging '
            'Face net) alike in model.architecture and model.teacher (logits), or put '
            "a connector to the teacher's size on the student (features)."
        )
    double = torch.float64 in (preds_S.dtype, preds_T.dtype)
    dtype = torch.float64 if double else torch.float32
    # Calls that would change nothing are left out, because a small batch is so fast
    # that each would be noticed.
    student = preds_S if preds_S.dtype == dtype else preds_S.to(dtype)
    teacher = preds_T if preds_T.dtype == dtype else preds_T.to(dtype)
    return student, teacher.detach() if teacher.requires_grad else teacher


def class_indices(
    gt_labels: Tensor,
    preds: Tensor,
    several: str = "type='CAKDLogitLoss' and multi_label",
) -> Tensor:
    """Return one class per sample, int64 (N,).

    ``gt_labels`` holds class indices, (N,), or label scores, (N, C), whose highest
    gives the class (mixup, CutMix); ``preds`` is (N, C). ``several`` names the setting
    that allows rows that mark several classes.

    Raises:
        TypeError: class indices are no integers.
        ValueError: shapes do not fit, or a row marks several classes with 1, or none
            at all. Indices out of range are left to :func:`check_classes`.
    """
    in_rows = gt_labels.dim() == 2
    if gt_labels.shape != (preds.shape if in_rows else preds.shape[:1]):
        raise ValueError(
            f'gt_labels has shape {tuple(gt_labels.shape)} for logits of shape '
            f'{tuple(preds.shape)}: '
            + (
                'rows of label scores need one per class; set num_classes of the heads '
                'or of the label augmentation alike.'
                if in_rows
                else 'give one class index per sample.'
            )
        )
    if in_rows:
        rows = gt_labels.to(torch.float32)  # because argmax takes no bool
        refuse_several_labels(rows, several)
        refuse_unlabelled_rows(rows, several)
        return rows.argmax(1)
    if gt_labels.is_floating_point() or gt_labels.dtype == torch.bool:
        raise TypeError(
            f'gt_labels must be integer class indices, got {gt_labels.dtype}; '
            'rows of label scores have the shape (N, C).'
        )
    return gt_labels if gt_labels.dtype == torch.int64 else gt_labels.long()


def index_outside(indices: Tensor, count: int) -> int | None:
    """Return an index, if there is one, that is negative or not below ``count``."""
    if indices.device.type != 'cpu' or not len(indices):
        return None
    low, high = (int(value) for value in indices.aminmax())
    return low if low < 0 else high if high >= count else None


def check_classes(labels: Tensor, preds: Tensor) -> None:
    """Raise ValueError if a class index, (N,), is none of those scored, (N, C)."""
    classes = preds.shape[-1]
    outside = index_outside(labels, classes)
    if outside is not None:
        raise ValueError(
            f'gt_labels holds {outside}, but there are {classes} classes: set '
            'num_classes of both heads to that of the dataset, and number labels '
            'from 0.'
        )
