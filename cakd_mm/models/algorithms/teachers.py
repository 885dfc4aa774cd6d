"""All teachers of a run: one, or several that teach as one."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

from mmengine.model import BaseModel
from torch import nn

from ...utils.errors import describe
from ..taps import classes_key, classes_of
from .teacher import Teacher, build_teacher, check_classes, made_by
from .teacher_ensemble import TeacherEnsemble
from .teacher_entries import Keys, TeacherEntry, read_entries
from .teacher_identity import identity_of
from .teacher_images import (
    ImageMap,
    TeacherView,
    build_image_map,
    compare_with_training,
    view_of,
)

Average = Literal['logits', 'probabilities']


class Teachers:
    """The teachers of a run, built and with their weights.

    Args:
        alone (TeacherEntry): What the config says beside ``model.teacher``, which is
            its ``net``: a config, a built model, or a list of entries.
        average (str, optional): What of several teachers is averaged, ``'logits'`` or
            ``'probabilities'``. It has to be said if two or more have a classifier.
        allow_random (bool): Whether a teacher may be without a checkpoint.

    Attributes:
        net (BaseModel): The teacher, or a :class:`TeacherEnsemble` of those of a list.
        is_loaded (bool): Whether all of them have their weights from a checkpoint.
        class_names (list[ClassNames]): What each calls the classes.
        identities (list[TeacherIdentity]): What a resumed run compares.
        views (list[TeacherView]): What each sees and was trained on, once
            :meth:`agree_with` was called.
        image_map (ImageMap, optional): What makes the batch that a teacher sees, if it
            is alone and does not see it as it is; the same.

    Raises:
        FileNotFoundError, TypeError, ValueError: naming the config key.
    """

    def __init__(
        self, alone: TeacherEntry, average: Average | None, allow_random: bool
    ) -> None:
        entries = [(alone, Keys())]
        if isinstance(alone.net, (list, tuple)):
            entries = read_entries(alone.net, alone)
        elif average is not None:
            problem, remedy = 'There is one teacher, model.teacher.', 'Remove the key.'
            key = 'model.teacher_average'
            raise ValueError(describe(key, average, problem, remedy))
        for entry, keys in entries:
            if entry.ckpt is None and not allow_random:
                _refuse_random(entry, keys)
        self._each = [build_teacher(entry, keys) for entry, keys in entries]
        self._scoring = [one for one in self._each if one.gives_scores]
        self.net: BaseModel = self._each[0].net
        if isinstance(alone.net, (list, tuple)):
            self.net = self._joined(average)
        self.is_loaded = all(one.entry.ckpt is not None for one in self._each)
        self.class_names = [one.class_names for one in self._each]
        self.identities = [identity_of(one, *self._share_of(one)) for one in self._each]
        self.views: list[TeacherView] = []
        self.image_map: ImageMap | None = None

    def agree_with(self, student: nn.Module, shared: Any, by_classes: bool) -> None:
        """Compare classes with the student's, and map the shared batch if needed.

        Args:
            student (nn.Module): The student.
            shared (nn.Module): The preprocessor that makes the batch.
            by_classes (bool): Whether a loss compares what they score. Otherwise the
                teacher's classes do not matter.

        Raises:
            ValueError: they score different classes, or a teacher would see other
                images than it was trained on.
        """
        for one in self._each:
            if by_classes:
                check_classes(one, student)
            view = view_of(one.net, shared, one.size, one.trained_with, one.keys.images)
            compare_with_training(view)
            self.views.append(view)
            mapped = build_image_map(one.net, shared, view)
            if isinstance(self.net, TeacherEnsemble):
                if mapped is not None:
                    self.net.image_maps[str(one.entry.name)] = mapped
            else:
                self.image_map = mapped

    def _share_of(self, teacher: Teacher) -> tuple[float | None, str | None]:
        """Return the share of a teacher in the average, and what is averaged."""
        if not isinstance(self.net, TeacherEnsemble):
            return 1.0, None
        if self.net.head is None or not teacher.gives_scores:
            return None, None
        whole = sum(one.entry.factor for one in self._scoring)
        return teacher.entry.factor / whole, self.net.head.average

    def _joined(self, average: Average | None) -> TeacherEnsemble:
        """Let the teachers of a list teach as one."""
        teachers, key = self._scoring, 'model.teacher_average'
        if average is None:
            if len(teachers) > 1:
                problem = (
                    f'Of the {len(teachers)} teachers with a classifier it is not '
                )
                problem += 'said what is averaged.'
                remedy = "Write teacher_average='logits' or 'probabilities'."
                raise ValueError(describe(key, None, problem, remedy))
            average = 'logits'
        elif not teachers:
            problem = 'No teacher of the list has a classifier.'
            raise ValueError(describe(key, average, problem, 'Remove the key.'))
        for one in teachers[1:]:
            counts = classes_of(teachers[0].net), classes_of(one.net)
            if counts[0] != counts[1]:
                problem = f'{teachers[0].keys.net} scores {counts[0]} classes.'
                remedy = 'Write classes=[...] beside it: for each class of the student '
                remedy += "the teacher's name or index of it."
                key = classes_key(one.net, one.keys.net)
                raise ValueError(describe(key, counts[1], problem, remedy))
        for one, other in combinations(teachers, 2):
            found = one.class_names.first_difference(other.class_names)
            if found is not None:
                place, ours, theirs = found
                problem = f'It calls class {place} {theirs!r}, but the teacher of '
                problem += f'{one.keys.ckpt} calls it {ours!r}.'
                remedy = f'Write {other.keys.classes}=[...]: for each class of the '
                remedy += "student the teacher's name or index of it."
                key = other.keys.ckpt
                raise ValueError(describe(key, other.entry.ckpt, problem, remedy))
        nets = {str(one.entry.name): one.net for one in self._each}
        weights: Sequence[float] = [one.entry.factor for one in teachers]
        return TeacherEnsemble(nets, average, weights)


def _refuse_random(entry: TeacherEntry, keys: Keys) -> None:
    problem = 'The teacher would keep random weights (`init_cfg` and `pretrained` of '
    problem += 'the teacher are not relied on).'
    remedy = 'Name its checkpoint, or write allow_random_teacher=True if that is what '
    remedy += f'you mean.{made_by(entry.made_by, keys.made_by)}'
    raise ValueError(describe(keys.ckpt, None, problem, remedy))
