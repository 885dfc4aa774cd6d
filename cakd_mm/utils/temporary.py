"""Temporary files that do not pile up where processes are killed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = 'cakd_mm_'


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
        with suppress(OSError), _locked(left):  # In use, gone, or not ours.
            if left.stat().st_uid == os.getuid():
                shutil.rmtree(left)
    with _own_folder(name) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def _own_folder(name: str) -> Iterator[str]:
    """Make a folder and lock it; try again if another process sweeps it before that."""
    while True:
        folder = tempfile.mkdtemp(prefix=name)
        with suppress(FileNotFoundError, BlockingIOError), ExitStack() as stack:
            stack.enter_context(_locked(Path(folder)))
            if Path(folder).exists():
                lock = stack.pop_all()
                break
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder; an ``OSError`` says that another process has done so."""
    opened = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)
