"""What a config says of each teacher, alone or in a list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from mmengine.model import BaseModel
from torch import nn

from ...utils.arguments import check_arguments
from ...utils.errors import describe
from ..checks import LARGEST_SETTING, LEAST_SETTING
from .teacher_ensemble import TeacherEnsemble

# A module of an ensemble cannot have these names.
NAMES_IN_USE = {
    *(*dir(TeacherEnsemble), *dir(nn.ModuleDict())),
    *('head', 'names', 'image_maps', 'data_preprocessor', 'init_cfg', '_scoring'),
}


@dataclass(frozen=True)
class Keys:
    """The config keys of one teacher, for errors.

    Args:
        net, ckpt, made_by, classes, weight (str): Of what :class:`TeacherEntry` holds.
    """

    net: str = 'model.teacher'
    ckpt: str = 'model.teacher_ckpt'
    made_by: str = 'model.teacher_from'
    classes: str = 'model.teacher_classes'
    weight: str = 'model.teacher.weight'

    @property
    def images(self) -> str:
        """The key of its preprocessing."""
        return f'{self.net}.data_preprocessor'


@dataclass(frozen=True)
class TeacherEntry:
    """One teacher as a config has it, an entry of a list ``model.teacher``, say.

    Args:
        net (dict | BaseModel): Its config, or the built model.
        ckpt (str, optional): Path or URL of its weights. Defaults to None (random).
        made_by (str, optional): The command that makes ``ckpt``.
        name (str, optional): The name by which recorders find it. Defaults to its place
            in the list, from 0.
        weight (float, optional): Its share in the average, from 1e-6 to 1e6. Defaults
            to None (1.0).
        classes (list[str | int], optional): For each class of the student the teacher's
            name or index of it. Defaults to None (the same classes).

    A teacher without a classifier has neither ``weight`` nor ``classes``.
    """

    net: dict | BaseModel
    ckpt: str | None = None
    made_by: str | None = None
    name: str | None = None
    weight: float | None = None
    classes: list[str | int] | None = None

    @property
    def factor(self) -> float:
        """Its weight, whether it is written or not."""
        return 1.0 if self.weight is None else self.weight


def read_entries(
    teachers: Sequence, beside: TeacherEntry
) -> list[tuple[TeacherEntry, Keys]]:
    """Return the entries of a list ``model.teacher``, with a name each.

    Args:
        teachers (list): Entries, see :class:`TeacherEntry`.
        beside (TeacherEntry): What the keys of one teacher alone have. They are not
            meant beside a list.

    Raises:
        TypeError, ValueError: an entry, or something beside the list, is wrong.
    """
    keys = Keys()
    for part in ('ckpt', 'made_by', 'classes'):
        value, key = getattr(beside, part), getattr(keys, part)
        if value is not None:
            problem = 'model.teacher is a list, so it is not known which one is meant.'
            remedy = f'Write {part} in an entry of that list, and '
            remedy += f'{key.removeprefix("model.")}=None if a base has set the key.'
            raise ValueError(describe(key, value, problem, remedy))
    if not teachers:
        problem, remedy = (
            'No teacher is in it.',
            'Write [dict(net=dict(...), ckpt=...)].',
        )
        raise ValueError(describe('model.teacher', [], problem, remedy))
    found: list[tuple[TeacherEntry, Keys]] = []
    for index, given in enumerate(teachers):
        key = f'model.teacher.{index}'
        if not isinstance(given, Mapping) or 'net' not in given:
            problem = (
                'An entry of a list says which net it is, and where its weights are.'
            )
            remedy = "Write dict(name='...', net=dict(...), ckpt='...')."
            raise TypeError(describe(key, given, problem, remedy))
        check_arguments(TeacherEntry, given, key)
        entry = TeacherEntry(**{'name': str(index), **given})
        _check_name(entry, key, [one.name for one, _ in found])
        if not LEAST_SETTING <= entry.factor <= LARGEST_SETTING:
            problem = f'It is a factor from {LEAST_SETTING:g} to {LARGEST_SETTING:g}.'
            remedy = 'Write 1.0, or take the teacher out of the list.'
            raise ValueError(describe(f'{key}.weight', entry.weight, problem, remedy))
        parts = (field.name for field in fields(Keys))
        found.append((entry, Keys(*(f'{key}.{part}' for part in parts))))
    return found


def _check_name(entry: TeacherEntry, key: str, before: list[str | None]) -> None:
    name = entry.name or ''
    problem = ''
    if '.' in name:
        problem = 'A dot would part it in the sources of recorders.'
    elif name in before:
        problem = 'Another teacher of the list has this name.'
    elif name in NAMES_IN_USE:
        problem = 'Something else of the ensemble has this name.'
    if problem:
        remedy = 'Write another one, r50, say.'
        raise ValueError(describe(f'{key}.name', name, problem, remedy))
