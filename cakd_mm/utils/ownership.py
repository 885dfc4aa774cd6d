"""Whether another user could have written what is about to be used."""

import os
import shlex
import stat
from pathlib import Path


def distrust(path: Path) -> tuple[str, str] | None:
    """Return why a file or folder is not this user's alone, and what to do about it.

    Args:
        path (Path): It has to exist. Of a link both ends are looked at.

    Returns:
        tuple[str, str]: A problem and its remedy; None if only this user can write
        it, or if the system does not tell (Windows).

    Raises:
        OSError: it does not exist.
    """
    if not hasattr(os, 'geteuid'):
        return None
    link, target = os.lstat(path), os.stat(path)
    if {link.st_uid, target.st_uid} != {os.geteuid()}:
        return 'It belongs to another user.', 'Name a folder of your own.'
    if target.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return 'Other users can write it.', f'Type chmod go-w {shlex.quote(str(path))}.'
    return None
