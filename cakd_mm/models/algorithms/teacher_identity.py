"""Which teachers a checkpoint was trained with, by their hashes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...utils.checkpoint import fingerprint
from ...utils.errors import describe
from .teacher import Teacher


@dataclass(frozen=True)
class TeacherIdentity:
    """What identifies a teacher.

    Args:
        name (str): Its name in a list; empty for one that is alone.
        key (str): The config key of its checkpoint.
        file (str): Its checkpoint.
        sha256 (Tensor): Of its weights, (32,) uint8; zeros for a random teacher.
        is_loaded (bool): Whether it has its weights from a checkpoint.
    """

    name: str
    key: str
    file: str
    sha256: Tensor
    is_loaded: bool


def identity_of(teacher: Teacher) -> TeacherIdentity:
    """Return what identifies a teacher."""
    entry = teacher.entry
    sha256 = torch.zeros(32, dtype=torch.uint8)
    if entry.ckpt is not None:
        sha256 = fingerprint(teacher.net.state_dict())
    file = str(entry.ckpt or 'a random teacher')
    is_loaded = entry.ckpt is not None
    return TeacherIdentity(entry.name or '', teacher.keys.ckpt, file, sha256, is_loaded)


def stored(identities: Sequence[TeacherIdentity]) -> tuple[Tensor, str]:
    """Return what a checkpoint stores: hashes and files.

    Returns:
        tuple[Tensor, str]: Of one teacher alone its hash, (32,), and its file; of a
        list of T teachers (T, 32), and the files by name as JSON.
    """
    [first, *_] = identities
    if not first.name:
        return first.sha256, first.file
    files = {one.name: one.file for one in identities}
    return torch.stack([one.sha256 for one in identities]), json.dumps(files)


def read_stored(sha256: Tensor, text: str | None) -> dict[str, tuple[Tensor, str]]:
    """Return hash and file by name from what :func:`stored` has given.

    The file is spelled as an error shows it.
    """
    if sha256.dim() == 1:
        return {'': (sha256, 'another one' if text is None else repr(text))}
    files = {}
    with suppress(ValueError):  # it is another's text
        files = json.loads(text or '{}')
    pairs = zip(files.items(), sha256, strict=False)
    return {name: (row, repr(file)) for (name, file), row in pairs}


def require_same_teachers(
    ours: Iterable[TeacherIdentity], before: dict[str, tuple[Tensor, str]]
) -> None:
    """Raise ValueError unless a checkpoint's teachers are those of this run.

    Args:
        ours: The teachers of this run. A random one is not compared.
        before: Those of the checkpoint, see :func:`read_stored`.
    """
    remedy = 'Resume with the same teacher; to go on from this student under another '
    remedy += 'one write model.student_ckpt=... instead.'
    known = {one.name: one for one in ours}
    if known.keys() != before.keys():
        were = ', '.join(file for _, file in before.values())
        files = [one.file for one in known.values()]
        problem = f'This checkpoint was trained with other teachers, {were}.'
        raise ValueError(describe('model.teacher', files, problem, remedy))
    for name, one in known.items():
        sha256, file = before[name]
        if one.is_loaded and not torch.equal(sha256.cpu(), one.sha256):
            _refuse(one, file)


def keep_weights(
    ours: Iterable[TeacherIdentity],
    weights: Mapping[str, Tensor],
    state_dict: dict[str, Any],
    prefix: str,
) -> None:
    """Put the teachers' own weights into what is to be loaded.

    Args:
        ours: The teachers of this run. A random one takes what is loaded.
        weights: Those of all teachers.
        state_dict: What is to be loaded; it may have weights of the teachers too.
        prefix: With which the names of these weights begin.

    Raises:
        ValueError: ``state_dict`` has the weights of another teacher.
    """
    for one in ours:
        if not one.is_loaded:
            continue
        start = prefix + (f'{one.name}.' if one.name else '')
        own = {k: v for k, v in weights.items() if k.startswith(start)}
        pairs = [(state_dict[k], v) for k, v in own.items() if k in state_dict]
        if not all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs):
            _refuse(one)
        state_dict.update(own)


def _refuse(one: TeacherIdentity, before: str = 'another one') -> None:
    """Raise ValueError that a checkpoint was trained with another teacher."""
    problem = 'It is not the teacher this checkpoint was trained with, '
    problem += f'which was {before} (SHA-256 differs).'
    remedy = 'Resume with the same teacher; to go on from this student '
    remedy += 'under another one write model.student_ckpt=... instead.'
    raise ValueError(describe(one.key, one.file, problem, remedy))
