"""What a person's checkpoint is to a teacher: the teacher itself, or its beginning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.model import BaseModel
from mmengine.registry import DefaultScope

from ..models.algorithms.teacher import build_net
from ..utils.checkpoint import (
    STUDENT_PREFIX,
    load_strictly,
    model_weights,
    read_checkpoint,
    unwrapped,
)
from ..utils.class_names import Names, names_in_checkpoint
from ..utils.config_text import values_in
from ..utils.errors import describe
from ..utils.net_names import NamedNet, with_classes
from ..utils.training_images import preprocessing_of_files

KEY = '--teacher-ckpt'


@dataclass(frozen=True)
class TeacherWeights:
    """What a checkpoint is to a teacher.

    Args:
        file (str): The checkpoint.
        is_whole (bool): Whether it is the teacher, who is not trained then.
        classes (int): How many classes the net has to have, to be given the weights or
            to be trained.
        chosen (tuple[str], optional): The names of the teacher's classes that teach, in
            the order of the student's. Defaults to None (all, in that order).
        preprocessor (dict): ``mean``, ``std`` and ``to_rgb`` of the teacher's training,
            as far as the checkpoint says it. Defaults to {}.
    """

    file: str
    is_whole: bool
    classes: int
    chosen: Names | None
    preprocessor: Mapping[str, Any]


def read_teacher_weights(file: str, named: NamedNet, classes: Names) -> TeacherWeights:
    """Read a checkpoint, and see whether it knows the classes.

    It is the teacher itself if its classes have the names of these, in any order and
    with others beside them, or if it names none and scores as many. Otherwise the
    teacher's training begins with its weights, all but those of the classifier.

    Args:
        file (str): The checkpoint, also a URL.
        named (NamedNet): The teacher's net.
        classes (tuple[str, ...]): Names of the images' classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or not one of this net.
    """
    remedy = f'Give weights of {named.name}, or leave {KEY} out to train the teacher.'
    content = read_checkpoint(file, KEY, remedy)
    names = names_in_checkpoint(content)
    meta = content.get('meta')
    trained = values_in(meta.get('cfg')) if isinstance(meta, Mapping) else {}
    seen = preprocessing_of_files(trained)
    known = _classes_in(content, named, len(classes), names)
    if known is not None:
        own = names if names is not None and len(names) == known else None
        if own is None and known == len(classes):
            return TeacherWeights(file, True, known, None, seen)
        if own is not None and set(classes) <= set(own):
            chosen = None if own == classes else classes
            return TeacherWeights(file, True, known, chosen, seen)
    _require_fit(content, named, len(classes), file, remedy)
    return TeacherWeights(file, False, len(classes), None, seen)


def _build(named: NamedNet, classes: int) -> BaseModel:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return build_net(with_classes(named.net, classes), '--teacher')


def _classes_in(
    content: dict, named: NamedNet, wanted: int, names: Names | None
) -> int | None:
    """Return how many classes a checkpoint scores; None if it is not of this net."""
    counts = [wanted, len(names or ()), named.net.get('head', {}).get('num_classes')]
    for count in dict.fromkeys(counts):
        if not count:
            continue
        try:
            net = _build(named, count)
            load_strictly(net, model_weights(content), KEY, '', '')
        except ValueError:
            continue
        return count
    return None


def _require_fit(
    content: dict, named: NamedNet, classes: int, file: str, remedy: str
) -> None:
    """Refuse weights that do not fit a net, its classifier apart.

    Training would begin with random weights in their place, and nobody would know.
    """
    weights = unwrapped(content.get('state_dict', content))
    if any(name.startswith(STUDENT_PREFIX) for name in weights):
        problem = 'It is a checkpoint of a distillation whose student is another net, '
        problem += 'or knows other classes.'
        remedy = 'Give the student.pth that lies beside it.'
        raise ValueError(describe(KEY, file, problem, remedy))
    wanted = _build(named, classes).state_dict()
    other = _build(named, classes + 1).state_dict()  # its classifier has other shapes
    without = [
        name
        for name, value in wanted.items()
        if not name.startswith('head.')
        and other[name].shape == value.shape
        and (name not in weights or weights[name].shape != value.shape)
    ]
    if without:
        problem = f'{len(without)} of the weights of {named.name} are not in it, or of '
        problem += f'another shape: {without[0]}, say.'
        raise ValueError(describe(KEY, file, problem, remedy))
