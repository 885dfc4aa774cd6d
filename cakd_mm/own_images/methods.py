"""The methods by the names of their bases."""

from pathlib import Path

from ..utils.errors import describe, nearest
from ..utils.hub import MIM

FOLDER = MIM / 'configs' / '_base_' / 'methods'
SHORT = {'cakd': 'cakd_logit'}
SHARED = 'logits'  # what bases begin with, and no method


def method_base(name: str) -> str:
    """Return the name of a method's base.

    Raises:
        ValueError: there is no such method.
    """
    known = {file.stem for file in FOLDER.glob('*.py')} - {SHARED} | SHORT.keys()
    if name not in known:
        problem = 'There is no such method.'
        remedy = f'Like it: {nearest(name, known)}.'
        raise ValueError(describe('--method', name, problem, remedy))
    return SHORT.get(name, name)


def method_file(base: str) -> Path:
    """Return the path of a method's base."""
    return FOLDER / f'{base}.py'
