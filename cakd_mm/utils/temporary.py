"""Temporary files that do not pile up where processes are killed."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = 'cakd_mm_'
SETTLED = 2  # seconds after which the owner of a folder has surely locked it


@contextmanager
def swept_temporary_folder() -> Iterator[None]:
    """Let :mod:`tempfile` use a folder of its own, which is gone afterwards.

    What a killed process has left is removed by the next one of the same user. A folder
    in use is known by its lock, which the system gives up with its process.
    """
    before = tempfile.gettempdir()
    if fcntl is None or Path(before).name.startswith(PREFIX):  # or it is in use already
        yield
        return
    name = f'{PREFIX}{os.getuid()}_'
    for left in Path(before).glob(f'{name}*'):
        with suppress(OSError):  # It is in use, just removed, or another user's.
            if time.time() - left.stat().st_mtime > SETTLED:
                _remove_unused(left)
    with tempfile.TemporaryDirectory(prefix=name) as folder, _locked(Path(folder)):
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _remove_unused(folder: Path) -> None:
    with _locked(folder):
        if folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder; an ``OSError`` says that another process has done so."""
    opened = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)
