"""Where what can be made again is kept, and how it is written."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np


def cache_folder(cache_dir: str | None) -> Path | None:
    """Return where scans, images and kernels are kept.

    Args:
        cache_dir: A folder, ``None`` for no cache, or ``'auto'`` for
            ``$XDG_CACHE_HOME/cakd_mm`` or ``~/.cache/cakd_mm``.
    """
    if cache_dir is None:
        return None
    if cache_dir == 'auto':
        cache_dir = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'cakd_mm')
    try:
        return Path(cache_dir).expanduser()
    except RuntimeError:  # a user without a home
        return None


def write_whole(file: Path, *parts: bytes | np.ndarray) -> bool:
    """Write a file that others see whole or not at all; say whether it worked."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=file.parent, delete=False) as part:
            try:
                for content in parts:
                    part.write(content)
                part.close()
                os.replace(part.name, file)
            except OSError:
                os.unlink(part.name)
                raise
    except OSError:
        return False  # made again next time
    return True
