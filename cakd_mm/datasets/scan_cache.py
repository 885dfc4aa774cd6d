"""What a dataset found in a folder, kept until the folder changes."""

import json
import os
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

from ..utils.caching import write_whole

# A later change may get the same time: file systems count in ticks of up to 2 s.
TICK = 2_000_000_000


def stamp(root: Path, names: Iterable[str]) -> list[list]:
    """Return what tells a changed file or folder: name, times and size of each.

    The time of the last status change cannot be set, so that an archive unpacked
    over another with the same times is seen.

    Raises:
        OSError: one does not exist.
    """
    stats = [(name, os.stat(root / name)) for name in names]
    return [[name, s.st_mtime_ns, s.st_ctime_ns, s.st_size] for name, s in stats]


def cached(
    folder: Path | None,
    key: list,
    stamps: Callable[[], list[list]],
    scan: Callable[[], dict],
) -> dict:
    """Return ``scan()``, or what it returned when all was as it is now.

    A cache that is damaged or cannot be written is as none. Several processes may
    use it at once.

    Args:
        folder: Where the cache is, ``None`` for none.
        key: What the scan depends on beside the stamps; strings and numbers.
        stamps: Returns the ``stamp`` of every file and folder that is scanned.
        scan: Returns a dict that json can keep.
    """
    if folder is None:
        return scan()
    file = folder / f'scan-{sha256(json.dumps(key).encode()).hexdigest()[:16]}.json'
    try:
        before = stamps()
    except OSError:
        return scan()  # says what is missing
    found = _read(file, [key, before])
    if found is None:
        found = scan()
        newest = max(mtime for _, mtime, *_ in before)
        if stamps() == before and newest < time.time_ns() - TICK:
            _write(file, [key, before], found)
    return found


def _text(valid_for: list, found: str) -> str:
    """Return the first line of a cache file, which vouches for the second."""
    return json.dumps([valid_for, sha256(found.encode()).hexdigest()])


def _read(file: Path, valid_for: list) -> dict | None:
    try:
        head, found = file.read_text('utf-8').split('\n')
    except (OSError, ValueError):  # none, or damaged
        return None
    return json.loads(found) if head == _text(valid_for, found) else None


def _write(file: Path, valid_for: list, found: dict) -> None:
    text = json.dumps(found)
    write_whole(file, f'{_text(valid_for, text)}\n{text}'.encode())
