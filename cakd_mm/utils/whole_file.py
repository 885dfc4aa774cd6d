"""Files that are there whole or not at all, whenever their writer is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PART = '.part'  # ends the name of a file that is not whole yet


@contextmanager
def whole_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` once it is written and on the disk.

    Until then it is ``<path>.part``. That name is always the same, so that what a kill
    leaves is overwritten by the next writer. Therefore only one process at a time may
    write ``path``: its folder has to be locked, or belong to one process.

    Args:
        path (Path): The file. What was there before stays if the block fails.
        mode (int): Its rights, from which the umask is taken. Defaults to 0o666.

    Yields:
        BinaryIO: The open file.

    Raises:
        OSError: the file, which is named, cannot be written.
    """
    part = path.with_name(path.name + PART)
    try:
        with open(
            part, 'wb', opener=lambda name, flags: os.open(name, flags, mode)
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # Of a full disk Python names no file.
        raise
    _sync(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file at once; see :func:`whole_file`."""
    with whole_file(path) as file:
        file.write(content)


def _sync(folder: Path) -> None:
    """Put the new name on the disk, where a system can do so for a folder."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
