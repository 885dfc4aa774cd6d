"""The json that runs and pages leave: what is in it, and how a damaged file is read."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

# The shape of a record: a dict has these keys at least, those with a question mark
# perhaps; a list has elements of one shape; a tuple is a list of so many; a set is a
# choice.
START = {
    'began': float,
    'threads?': int,
    'settings': str,
    'teacher_sha256': {str, None},
    'commit': str,
    'versions': dict,
    'machine': str,
}
STARTS = {'starts': [START]}
RESULT = {
    'top1': float,
    'curve': [(int, float)],
    'loss': [(int, float)],
    'seconds': float,
    'checkpoint_sha256': str,
    'teacher_sha256': {str, None},
    **STARTS,
}
FAILED = {'reason': str}
PAGE = {'finished': int}
_told: set[tuple] = set()


def read_record(path: Path, shape: dict) -> dict | None:
    """Return a record; an empty one if there is no file, and None if it is damaged.

    A damaged file is warned of once as long as it stays as it is.

    Args:
        path (Path): The file.
        shape (dict): What has to be in it, such as ``RESULT``.
    """
    if not path.is_file():
        return {}
    changed = path.stat().st_mtime_ns, path.stat().st_size
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        problem = '' if fits(record, shape) else 'something in it is missing or odd'
    except (OSError, ValueError, RecursionError) as error:
        record, problem = None, str(error)
    if not problem:
        return record
    if (path, changed) not in _told:
        _told.add((path, changed))
        text = f'{path} is damaged ({problem:.200}): what it tells of is not finished.'
        print_log(text, 'current', logging.WARNING)
    return None


def fits(value: Any, shape: Any) -> bool:
    """Whether a value of json has a shape; numbers are finite, and bools are none."""
    if isinstance(shape, set):
        return any(fits(value, choice) for choice in shape)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        needed = {name for name in shape if not name.endswith('?')}
        parts = {name.rstrip('?'): part for name, part in shape.items()}
        return needed <= value.keys() and all(
            fits(value[name], part) for name, part in parts.items() if name in value
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(x, shape[0]) for x in value)
    if isinstance(shape, tuple):
        right = isinstance(value, list) and len(value) == len(shape)
        return right and all(map(fits, value, shape))
    if shape is float:
        # A whole number of json may be too large for a float.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max
    if shape is None:
        return value is None
    return isinstance(value, shape) and not isinstance(value, bool)
