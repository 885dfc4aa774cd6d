"""Decoded images, kept in a file until what they were decoded from changes."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from math import prod
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ..utils.caching import write_whole
from .scan_cache import TICK, stamp

FORMAT = 1  # of the file: raise it when that changes
FOOTER = 1024  # bytes of json behind the images


def cached_images(
    folder: Path | None,
    key: list,
    paths: Sequence[str],
    decode: Callable[[], np.ndarray],
) -> Tensor:
    """Return ``decode()``, or what it returned when all was as it is now.

    The file is checked by size and SHA-256, then mapped, so that the processes of a
    machine share the memory. A file that is damaged or cannot be written is as none.
    Of several processes one decodes and the others wait for it.

    Args:
        folder: Where the file is, ``None`` for none.
        key: What the images depend on beside the files; strings and numbers.
        paths: The files they are decoded from, absolute, in order.
        decode: Returns the images, (N, ...) uint8, contiguous.
    """
    try:
        stamps = stamp(Path(), paths)
    except OSError:  # `decode` says what is missing
        folder = None
    if folder is None:
        return torch.from_numpy(decode())
    file = folder / f'images-{_digest([FORMAT, key, list(paths)])[:16]}.bin'
    valid_for = _digest(stamps)
    with _alone(file):
        images = _read(file, valid_for)
        if images is not None:
            return images
        decoded = decode()
        newest = max(mtime for _, mtime, *_ in stamps)
        if newest < time.time_ns() - TICK and stamp(Path(), paths) == stamps:
            _write(file, valid_for, decoded)
            images = _read(file, valid_for)
    return torch.from_numpy(decoded) if images is None else images


def _digest(what: list) -> str:
    return sha256(json.dumps(what).encode()).hexdigest()


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other processes out, where the folder allows a lock."""
    lock = FileLock(file.with_suffix('.lock'))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):  # read-only, or a network's
        pass
    try:
        yield
    finally:
        lock.release()  # does nothing where there is none


def _read(file: Path, valid_for: str) -> Tensor | None:
    try:
        size = file.stat().st_size - FOOTER
        with file.open('rb') as opened:
            opened.seek(size)
            footer = json.loads(opened.read())
        shape = footer['shape']
        if footer['valid_for'] != valid_for or prod(shape) != size:
            return None
        images = torch.from_file(str(file), size=size, dtype=torch.uint8)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None  # none, or damaged
    if footer['sha256'] != sha256(images.numpy()).hexdigest():
        return None
    return images.view(shape)


def _write(file: Path, valid_for: str, images: np.ndarray) -> None:
    digest = sha256(images).hexdigest()
    footer = dict(valid_for=valid_for, shape=images.shape, sha256=digest)
    write_whole(file, images, json.dumps(footer).encode().ljust(FOOTER))
