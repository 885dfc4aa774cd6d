"""Checks of settings that several losses share."""

import math
from numbers import Real


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
