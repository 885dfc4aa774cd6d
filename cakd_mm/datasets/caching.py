"""What was read from many files, cached in one until any of them changes."""

import json
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from mmengine.logging import print_log
from torch import Tensor

from ..utils.errors import describe
from ..utils.ownership import distrust
from ..utils.whole_file import whole_file

KEY = 'cache_dir'
FORMAT = 3  # of the cache files: raise it when that changes
# Some file systems count time in steps of up to 2 s, so that a later change may get
# the same time.
TICK = 2_000_000_000

_WARNED: set[Path] = set()


class Watch:
    """Keeps a mapped file open, to see whether it is still whole.

    Args:
        file (Path, optional): The file. Defaults to None, for data in memory.
        mapped (mmap, optional): Its map. Defaults to None.
    """

    def __init__(
        self, file: Path | None = None, mapped: mmap.mmap | None = None
    ) -> None:
        self._file = file
        self._mapped = mapped

    def check(self) -> None:
        """Refuse a file that was cut, because to read what is lost ends the process.

        Raises:
            OSError: naming the file.
        """
        if self._mapped is not None and self._mapped.size() < len(self._mapped):
            problem = 'The file was cut while it was in use.'
            remedy = 'Start again, with --resume: the file is made anew.'
            raise OSError(describe(KEY, str(self._file), problem, remedy))

    def __reduce__(self) -> tuple:
        # Whoever copies the data to another process copies them into memory.
        return Watch, ()


class Kept(NamedTuple):
    """Bytes in memory, or in a file that is mapped into memory.

    Attributes:
        data (Tensor): The array, uint8.
        watch (Watch): To be asked before the data are read.
    """

    data: Tensor
    watch: Watch


def _in_memory(data: np.ndarray) -> Kept:
    return Kept(torch.from_numpy(data), Watch())


def cache_folder(cache_dir: str | None) -> Path | None:
    """Return the folder of the cache files.

    Args:
        cache_dir: A folder, ``None`` for no cache, or ``'auto'`` for
            ``$XDG_CACHE_HOME/cakd_mm`` or ``~/.cache/cakd_mm``.
    """
    if cache_dir is None:
        return None
    folder = Path(cache_dir)
    if cache_dir == 'auto':
        folder = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'cakd_mm')
    try:
        return folder.expanduser()
    except RuntimeError:  # the user has no home
        return None


def stamp(root: Path, names: Iterable[str]) -> list[list]:
    """Return the name, times and size of each file or folder, to detect a change.

    The time of the last status change is part of it because no program can set that
    time: it betrays an archive that was unpacked over another with the same times.

    Raises:
        OSError: a file or folder does not exist.
    """
    stats = [(name, os.stat(root / name)) for name in names]
    return [[name, s.st_mtime_ns, s.st_ctime_ns, s.st_size] for name, s in stats]


def cached_scan(
    folder: Path | None,
    key: list,
    stamps: Callable[[], list[list]],
    scan: Callable[[], dict],
) -> dict:
    """Return what ``scan()`` returns, from the cache if nothing has changed.

    Args:
        folder: Where the cache file is; ``None`` for no cache.
        key: All else that the scan depends on; strings and numbers.
        stamps: Returns the ``stamp`` of every file and folder that is scanned.
        scan: Returns a dict that json can hold.
    """

    def make() -> np.ndarray:
        return np.frombuffer(bytearray(json.dumps(scan()).encode()), np.uint8)

    found = _cached(folder, 'scan', key, stamps, make)
    return json.loads(found.data.numpy().tobytes())


def cached_images(
    folder: Path | None,
    key: list,
    paths: Sequence[str],
    decode: Callable[[], np.ndarray],
) -> Kept:
    """Return what ``decode()`` returns, from the cache if no file has changed.

    The file is mapped into memory, so that all processes of a machine share it. Call
    :meth:`Watch.check` before the data are read.

    Args:
        folder: Where the cache file is; ``None`` for no cache.
        key: All else that the images depend on; strings and numbers.
        paths: The files that are decoded, absolute, in order.
        decode: Returns the images, (N, ...) uint8, contiguous.
    """
    key = [key, list(paths)]
    return _cached(folder, 'images', key, lambda: stamp(Path(), paths), decode)


def _cached(
    folder: Path | None,
    name: str,
    key: list,
    stamps: Callable[[], list[list]],
    make: Callable[[], np.ndarray],
) -> Kept:
    """Return what ``make()`` returns, from the cache if the stamps are the same.

    A file that is damaged, or that others can write, is made again, and one that cannot
    be written is not missed. If several processes ask, one calls ``make`` and the
    others wait for it.
    """
    if folder is None:
        return _in_memory(make())
    try:
        before = stamps()
    except OSError:  # `make` says what is missing
        return _in_memory(make())
    if not _usable(folder):
        return _in_memory(make())
    file = folder / f'{name}-{_digest([FORMAT, key])[:16]}.bin'
    valid_for = _digest([key, before])
    with _locked(file):
        found = _read(file, valid_for)
        if found is not None:
            return found
        made = make()
        newest = max(mtime for _, mtime, *_ in before)
        if newest < time.time_ns() - TICK and stamps() == before:
            _write(file, valid_for, made)
            found = _read(file, valid_for)
    return _in_memory(made) if found is None else found


def _digest(what: list) -> str:
    return sha256(json.dumps(what).encode()).hexdigest()


def _usable(folder: Path) -> bool:
    """Return whether the folder is there, made if need be, and this user's alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _trusted(folder)
    except OSError:
        return False


def _trusted(path: Path) -> bool:
    """Warn once of what others could have written."""
    found = distrust(path)
    if found is not None and path not in _WARNED:
        _WARNED.add(path)
        problem, remedy = found
        problem += ' It is not used, and the data are read anew.'
        text = describe(KEY, str(path), problem, remedy)
        print_log(text, 'current', logging.WARNING)
    return found is None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep other processes out, if the folder allows a lock."""
    lock = FileLock(file.with_suffix('.lock'))
    with suppress(OSError, NotImplementedError):  # a read-only folder, or a network's
        lock.acquire()
    try:
        yield
    finally:
        lock.release()  # does nothing if the lock was not acquired


def _read(file: Path, valid_for: str) -> Kept | None:
    """Return the data of a file, None if it is missing, damaged or out of date.

    The first line is the digest of all that follows, the second has what the data are
    valid for and their shape.
    """
    try:
        # A pipe, say, would let us wait for its writer.
        if file.is_symlink() or not file.is_file() or not _trusted(file):
            return None
        with file.open('rb') as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):  # it is missing, a folder, or empty
        return None
    start = mapped.find(b'\n') + 1
    with memoryview(mapped) as whole, whole[start:] as hashed:
        if mapped[: start - 1] != sha256(hashed).hexdigest().encode():
            return None
    begin = mapped.find(b'\n', start) + 1
    found_for, shape = json.loads(mapped[start:begin])
    if found_for != valid_for:
        return None
    data = np.frombuffer(mapped, np.uint8, offset=begin).reshape(shape)
    return Kept(torch.from_numpy(data), Watch(file, mapped))


def _write(file: Path, valid_for: str, data: np.ndarray) -> None:
    """Write a file for :func:`_read`."""
    header = json.dumps([valid_for, data.shape]).encode() + b'\n'
    digest = sha256(header)
    digest.update(data.data)
    try:
        with whole_file(file, mode=0o600) as opened:
            opened.write(digest.hexdigest().encode() + b'\n' + header)
            opened.write(data.data)
    except OSError:  # a full disk, say: the next run makes the data again
        pass
