"""Checks of settings that several losses share."""

import math
from numbers import Real

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
