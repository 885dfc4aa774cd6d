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
from .teacher_entries import Keys
from .teacher_shards import local_part, local_part_like

REMEDY = (
    'Resume with the same teacher; to go on from this student under another one '
    'write model.student_ckpt=... instead.'
)


@dataclass(frozen=True)
class TeacherIdentity:
    """What identifies a teacher, and what of it teaches.

    Args:
        name (str): Its name in a list; empty for one that is alone.
        keys (Keys): The config keys of it.
        file (str): Its checkpoint.
        sha256 (Tensor): Of its weights, (32,) uint8; zeros for a random teacher.
        sha256_of_chosen (Tensor): The same without the classes that were not chosen,
            which is what the first versions have stored.
        is_loaded (bool): Whether it has its weights from a checkpoint.
        classes (list[int], optional): The indices of the classes that were chosen of
            it. None for all in their order.
        weight (float, optional): Its share in the average, of 1. None for a teacher
            without a classifier beside others.
        average (str, optional): What is averaged. None for a teacher that is alone, and
            for one without a classifier.
    """

    name: str
    keys: Keys
    file: str
    sha256: Tensor
    sha256_of_chosen: Tensor
    is_loaded: bool
    classes: list[int] | None
    weight: float | None
    average: str | None

    @property
    def choice(self) -> dict[str, tuple[str, Any]]:
        """What may not change when a run goes on: config key and value by name."""
        return dict(
            classes=(self.keys.classes, self.classes),
            weight=(self.keys.weight, self.weight),
            average=('model.teacher_average', self.average),
        )


def identity_of(
    teacher: Teacher, weight: float | None, average: str | None
) -> TeacherIdentity:
    """Return what identifies a teacher with its share in an average."""
    entry, names = teacher.entry, teacher.class_names
    is_loaded = entry.ckpt is not None
    chosen, places = teacher.sha256, None
    if is_loaded and names.places is not None:
        chosen = fingerprint(teacher.net.state_dict())
    if not torch.equal(chosen, teacher.sha256):  # all in their order change nothing
        places = list(names.places or ())
    return TeacherIdentity(
        entry.name or '',
        teacher.keys,
        names.file,
        teacher.sha256,
        chosen,
        is_loaded,
        places,
        # the same for 1 and 2 as for 0.1 and 0.2
        None if weight is None else float(f'{weight:.6g}'),
        average,
    )


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
    ours: Iterable[TeacherIdentity],
    before: dict[str, tuple[Tensor, str]],
    of_chosen: bool,
) -> None:
    """Raise ValueError unless a checkpoint's teachers are those of this run.

    Args:
        ours: The teachers of this run. A random one is not compared.
        before: Those of the checkpoint, see :func:`read_stored`.
        of_chosen: Whether its hashes are of the chosen classes alone.
    """
    known = {one.name: one for one in ours}
    if known.keys() != before.keys():
        were = ', '.join(file for _, file in before.values())
        files = [one.file for one in known.values()]
        problem = f'This checkpoint was trained with other teachers, {were}.'
        raise ValueError(describe('model.teacher', files, problem, REMEDY))
    for name, one in known.items():
        sha256, file = before[name]
        own = one.sha256_of_chosen if of_chosen else one.sha256
        if one.is_loaded and not torch.equal(sha256.cpu(), own):
            _refuse(one, file)


def stored_choice(identities: Iterable[TeacherIdentity]) -> str:
    """Return what a checkpoint stores of classes and averaging, as JSON."""
    choices = {
        one.name: {name: value for name, (_, value) in one.choice.items()}
        for one in identities
    }
    return json.dumps(choices)


def require_same_choice(ours: Iterable[TeacherIdentity], before: str | None) -> None:
    """Raise ValueError if other classes teach, or they are averaged otherwise.

    Args:
        ours: The teachers of this run, the same as those of the checkpoint.
        before: What :func:`stored_choice` has given; None in a checkpoint that was
            written before it stored this.
    """
    choices = json.loads(before or '{}')
    for one in ours:
        theirs = choices.get(one.name, {})
        for name, (key, value) in one.choice.items():
            if name in theirs and theirs[name] != value:
                was = f'{theirs[name]!r:.300}'
                problem = f'This checkpoint was trained with {was}'
                problem += ', as a share of 1.' if name == 'weight' else '.'
                raise ValueError(describe(key, value, problem, REMEDY))


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
        pairs = [
            (local_part_like(v, state_dict[k]), local_part(v))
            for k, v in own.items()
            if k in state_dict
        ]
        if not all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs):
            _refuse(one)
        state_dict.update(own)


def _refuse(one: TeacherIdentity, before: str = 'another one') -> None:
    """Raise ValueError that a checkpoint was trained with another teacher."""
    problem = 'It is not the teacher this checkpoint was trained with, '
    problem += f'which was {before} (SHA-256 differs).'
    raise ValueError(describe(one.keys.ckpt, one.file, problem, REMEDY))
