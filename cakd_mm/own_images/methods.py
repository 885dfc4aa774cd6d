"""The methods by the names of their bases."""

from pathlib import Path

from ..utils.errors import describe, nearest
from ..utils.hub import MIM

FOLDER = MIM / 'configs' / '_base_' / 'methods'
SHORT = {'cakd': 'cakd_logit'}
SHARED = frozenset({'fpn', 'logits'})  # what bases begin with, and no methods
# Methods of detectors and segmentors, whose places a classifier has not.
DENSE = frozenset(
    ('cakd_fpn', 'cakd_pixel', 'cakd_scores', 'kd_pixel', 'kd_scores')
    + ('cwd', 'cwd_fpn', 'mgd', 'pkd')
)


def classifier_methods() -> list[str]:
    """Return the names of the bases of methods for classifiers, sorted."""
    return sorted({file.stem for file in FOLDER.glob('*.py')} - DENSE - SHARED)


def method_base(name: str) -> str:
    """Return the name of a method's base.

    Raises:
        ValueError: there is no such method.
    """
    known = {*classifier_methods(), *SHORT}
    if name not in known:
        problem = 'There is no such method.'
        remedy = f'Like it: {nearest(name, known)}.'
        raise ValueError(describe('--method', name, problem, remedy))
    return SHORT.get(name, name)


def method_file(base: str) -> Path:
    """Return the path of a method's base."""
    return FOLDER / f'{base}.py'
