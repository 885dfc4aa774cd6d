"""What was read from many files, cached in one until any of them changes."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

FORMAT = 2  # of the cache files: raise it when that changes
# Some file systems count time in steps of up to 2 s, so that a later change may get
# the same time.
TICK = 2_000_000_000


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

    return json.loads(_cached(folder, 'scan', key, stamps, make).numpy().tobytes())


def cached_images(
    folder: Path | None,
    key: list,
    paths: Sequence[str],
    decode: Callable[[], np.ndarray],
) -> Tensor:
    """Return what ``decode()`` returns, from the cache if no file has changed.

    The file is mapped into memory, so that all processes of a machine share it.

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
) -> Tensor:
    """Return what ``make()`` returns, from the cache if the stamps are the same.

    A file that is damaged is made again, and one that cannot be written is not
    missed. If several processes ask, one calls ``make`` and the others wait for it.
    """
    if folder is None:
        return torch.from_numpy(make())
    try:
        before = stamps()
    except OSError:  # `make` says what is missing
        return torch.from_numpy(make())
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
    return torch.from_numpy(made) if found is None else found


def _digest(what: list) -> str:
    return sha256(json.dumps(what).encode()).hexdigest()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep other processes out, if the folder allows a lock."""
    lock = FileLock(file.with_suffix('.lock'))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):  # a read-only folder, or a network's
        pass
    try:
        yield
    finally:
        lock.release()  # does nothing if the lock was not acquired


def _read(file: Path, valid_for: str) -> Tensor | None:
    """Return the data of a file, None if it is missing, damaged or out of date."""
    try:
        found = torch.load(str(file), mmap=True, weights_only=True)
        data = found['data']
        digest = sha256(data.numpy().data).hexdigest()
        return data if found['valid_for'] == [valid_for, digest] else None
    except Exception:  # a damaged file makes torch raise many kinds of errors
        return None


def _write(file: Path, valid_for: str, data: np.ndarray) -> None:
    """Write a file that other processes see whole or not at all."""
    digest = sha256(data.data).hexdigest()
    content = dict(valid_for=[valid_for, digest], data=torch.from_numpy(data))
    try:
        with NamedTemporaryFile(dir=file.parent, delete=False) as part:
            try:
                torch.save(content, part)
                part.close()
                os.replace(part.name, file)
            except OSError:
                os.unlink(part.name)
                raise
    except OSError:  # a full disk, say: the next run makes the data again
        pass
