"""Scores as a person reads them."""

import re
from collections.abc import Mapping

TOP = re.compile(r'(.*)accuracy/top(\d+)')


def spoken(scores: Mapping[str, float]) -> list[str]:
    """Return scores such as ``top-1 97.20 %``, and those of other names as they are."""
    return [_one(name, value) for name, value in scores.items()]


def _one(name: str, value: float) -> str:
    found = TOP.fullmatch(name)
    if found is None:
        return f'{name} {value:.2f}'
    of, count = found.groups()
    return f'{of.replace("/", " ").replace("_", " ")}top-{count} {value:.2f} %'
