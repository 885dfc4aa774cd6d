"""The newest checkpoint of a work dir from which a run can go on."""

import glob
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checkpoint import is_remote, read_checkpoint
from .errors import describe

KEY = '--resume'
ZIP_START = b'PK\x03\x04'  # of every file that torch.save writes


@dataclass
class Found:
    """What a work dir holds.

    Attributes:
        path: The newest whole checkpoint; None if there is none.
        checkpoint: Its content; empty if it lies on a server.
        cut: Newer files whose end is missing, each with what reading it said.
        refused: Newer files that cannot be read for another reason, likewise.
    """

    path: str | None = None
    checkpoint: dict = field(default_factory=dict)
    cut: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def newest_checkpoint(work_dir: Path, cfg: Mapping[str, Any]) -> Found:
    """Return the checkpoint that was written last, of those that are whole.

    Looked at are ``epoch_*.pth`` and ``iter_*.pth``, or what ``filename_tmpl`` of the
    ``CheckpointHook`` says instead, in the work dir and in the hook's ``out_dir``, and
    the file that ``last_checkpoint`` names, whose name may be missing or out of date.
    A file without the state of an optimizer (a best one, a student) is no checkpoint to
    go on from. Of several files written at the same time the last by number counts.
    """
    found = Found()
    named = _named_last(work_dir)
    own = {*named_checkpoints(work_dir, cfg)}
    files = set(own)
    if named and not is_remote(named):
        files.add(Path(named))
    for file in sorted(filter(os.path.isfile, files), key=_age):
        try:
            checkpoint = read_checkpoint(str(file), KEY, 'It is passed over.')
        except (ValueError, FileNotFoundError) as error:
            kind = found.cut if _is_cut(file) else found.refused
            kind[str(file)] = str(error)
            continue
        lacking = lacks(checkpoint)
        if not lacking:
            found.path, found.checkpoint = str(file), checkpoint
            return found
        if 'message_hub' in checkpoint and file in own:  # else a student
            found.refused[str(file)] = describe(
                KEY, str(file), f'It lacks {lacking}.', 'It is passed over.'
            )
    if named and is_remote(named):
        found.path = named
    return found


def lacks(checkpoint: Mapping) -> str:
    """Return what a run would need to go on from a checkpoint; '' if all is there."""
    meta = checkpoint.get('meta')
    counts = [meta.get(x) for x in ('epoch', 'iter')] if isinstance(meta, dict) else []
    there = {
        "the state of the optimizer (the hook's save_optimizer=True)": isinstance(
            checkpoint.get('optimizer'), dict
        ),
        'the numbers of epoch and iteration': len(counts) == 2
        and all(isinstance(count, int) for count in counts),
        'the message hub': isinstance(checkpoint.get('message_hub'), dict),
    }
    return ' and '.join(name for name, is_there in there.items() if not is_there)


def _named_last(work_dir: Path) -> str:
    try:
        return (work_dir / 'last_checkpoint').read_text(encoding='utf-8').strip()
    except (OSError, ValueError):  # it is missing, a folder, or no text
        return ''


def named_checkpoints(work_dir: Path, cfg: Mapping[str, Any]) -> list[Path]:
    """Return the files that are named as the config's hook names checkpoints."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folders = [work_dir]
    if hook.get('out_dir'):
        folders.append(Path(hook['out_dir'], work_dir.resolve().name))
    template = hook.get('filename_tmpl')
    patterns = [pattern_of(template)] if template else ['epoch_*.pth', 'iter_*.pth']
    return [file for x in folders for pattern in patterns for file in x.glob(pattern)]


def pattern_of(template: str) -> str:
    """Return a pattern of the names that ``filename_tmpl`` makes of numbers.

    The number may have a format of its own, as in ``epoch_{:03d}.pth``.
    """
    return re.sub(r'{[^{}]*}', '*[0-9]*', glob.escape(template))


def _age(file: Path) -> tuple[int, int]:
    """Return a key that puts the newest file first."""
    return -file.stat().st_mtime_ns, -number_of(file)


def number_of(file: Path) -> int:
    """Return the epoch or step in a checkpoint's name; 0 if there is none."""
    digits = ''.join(filter(str.isdigit, file.stem.rpartition('_')[2]))
    return int(digits or 0)


def _is_cut(file: Path) -> bool:
    """Return whether the end is missing: the directory of a zip is written last."""
    with file.open('rb') as opened:
        start = opened.read(len(ZIP_START))
    return ZIP_START.startswith(start) and not zipfile.is_zipfile(file)
