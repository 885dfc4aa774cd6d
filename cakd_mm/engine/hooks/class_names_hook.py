"""Compares the names of classes of the teacher, the data and checkpoints."""

from collections.abc import Iterator
from typing import Any, NoReturn

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner.base_loop import BaseLoop

from ...models.algorithms.teacher_classes import ClassNames
from ...utils.class_names import (
    Names,
    first_difference,
    names_in_checkpoint,
    names_in_dataset,
)
from ...utils.errors import describe
from ...utils.model import unwrap

STAGES = ('train', 'val', 'test')


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Refuse class lists that differ, because one label then means two classes.

    Compared are the teacher's classes with those of the training set, the sets of
    training, validation and test with one another, and those of a checkpoint with the
    set that it is tested on, or resumed with. ``load_from`` alone may have other
    classes, because training then begins anew. A set, teacher or checkpoint that names
    no classes is not compared. A test set is not built for this: until then its config
    tells its ``classes``. Put it into ``default_hooks``.

    Raises:
        ValueError: naming the first label that differs, and both names of it.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        # What the loaded weights were trained with; None if that is unknown.
        self._trained: Names | None = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Remember the classes that a checkpoint's weights score."""
        self._trained = names_in_checkpoint(checkpoint)

    def before_run(self, runner) -> None:
        """Compare the data sets, and the teacher with them."""
        known = [
            (key, names) for stage in STAGES for key, names in _sets(runner, stage)
        ]
        if not known:
            return
        first, names = known[0]
        for key, others in known[1:]:
            if (found := first_difference(names, others)) is not None:
                label, one, other = found
                problem = (
                    f'It calls label {label} {_quoted(other)}, but {first} calls it '
                    f'{_quoted(one)}'
                )
                _refuse_set(key, others, f'{problem}.')
        if isinstance(runner._train_loop, BaseLoop):
            _compare_teachers(unwrap(runner.model), first, names)

    def before_train(self, runner) -> None:
        """Compare the set with that of the run that goes on."""
        if runner._resume:
            self._compare_checkpoint(runner, 'train')
        self._trained = None  # from here on the weights are of this run's set

    def before_val(self, runner) -> None:
        """Compare the set with that of the checkpoint that is scored."""
        self._compare_checkpoint(runner, 'val')

    def before_test(self, runner) -> None:
        """Compare the set with that of the checkpoint that is scored."""
        self._compare_checkpoint(runner, 'test')

    def _compare_checkpoint(self, runner, stage: str) -> None:
        if self._trained is None:
            return
        for key, names in _sets(runner, stage):
            if (found := first_difference(self._trained, names)) is not None:
                label, one, other = found
                problem = (
                    f'It calls label {label} {_quoted(other)}, but the set that the '
                    f'checkpoint was trained on calls it {_quoted(one)}.'
                )
                _refuse_set(key, names, problem)


def _sets(runner, stage: str) -> Iterator[tuple[str, Names]]:
    """Yield config key and classes of the sets of a stage that name their classes."""
    loop: Any = getattr(runner, f'_{stage}_loop')
    loader = getattr(runner, f'_{stage}_dataloader')
    if isinstance(loop, BaseLoop):
        loader = loop.dataloader
    dataset = loader.get('dataset') if isinstance(loader, dict) else None
    dataset = getattr(loader, 'dataset', dataset)
    key = f'{stage}_dataloader.dataset'
    for place, part, names in names_in_dataset(dataset, key):
        _check_folders(place, part, names)
        yield place, names


def _check_folders(key: str, dataset: Any, names: Names) -> None:
    """Refuse names of class folders in an order that is not that of the labels."""
    folders = tuple(getattr(dataset, 'folder_to_idx', None) or ())
    found = first_difference(names, folders)
    if found is not None and sorted(names) == sorted(folders):
        label, name, folder = found
        problem = (
            f'Label {label} is the folder {folder!r}, because folders count in the '
            f'order of their names, but classes has {name!r} there.'
        )
        remedy = 'Leave classes (or metainfo) out, or write them in that order.'
        raise ValueError(describe(f'{key}.classes', _short(names), problem, remedy))


def _compare_teachers(model: Any, key: str, names: Names) -> None:
    for theirs in getattr(model, 'teacher_class_names', ()):
        found = ClassNames(names).first_difference(theirs)
        if found is not None:
            _refuse_teacher(theirs, key, names, *found)
        pairs = zip(names, theirs.scored or (), strict=False)
        spelled = [f'{ours} is {other}' for ours, other in pairs if ours != other]
        if spelled:
            text = (
                f"The teacher's names of classes are other ones: {', '.join(spelled)}"
            )
            print_log(f'{text} ({theirs.keys.classes}).', 'current')


def _refuse_teacher(
    theirs: ClassNames,
    key: str,
    names: Names,
    label: int,
    one: str | None,
    other: str | None,
) -> NoReturn:
    problem = (
        f'It calls class {label} {_quoted(other)}, but {key} calls it {_quoted(one)}: '
        "the student would learn one class from the teacher's scores of another."
    )
    key, places = theirs.keys.classes, theirs.places_of(names)
    if places is not None:
        remedy = f'Write {key}={places}, where it has the same names.'
    else:
        remedy = f'Write {key}=[...]: for each class of the student the name or index '
        remedy += 'that the teacher has for it'
        as_they_are = ClassNames(theirs.scored, theirs.chosen_from or theirs.scored)
        if ClassNames(names).first_difference(as_they_are) is None:
            remedy += f', or list(range({len(names)})) if the order is the same and '
            remedy += 'only the spelling differs'
        remedy += '.'
    if theirs.places is not None:
        value: Any = list(theirs.places)
        raise ValueError(describe(key, value, problem, remedy))
    raise ValueError(describe(theirs.keys.ckpt, theirs.file, problem, remedy))


def _refuse_set(key: str, names: Names, problem: str) -> NoReturn:
    cause = (
        'A folder of class folders that lacks one shifts all labels after it; then '
        'make an empty folder of that name.'
    )
    remedy = (
        'Otherwise use sets of the same classes, or, if only the spelling differs, '
        'write the same classes=[...] (or metainfo=dict(classes=[...])) for both.'
    )
    raise ValueError(describe(key, _short(names), f'{problem} {cause}', remedy))


def _quoted(name: str | None) -> str:
    return 'nothing' if name is None else repr(name)


def _short(names: Names) -> str:
    """Return the number of classes and the first names."""
    more = ', ...' if len(names) > 3 else ''
    return f'{len(names)} classes ({", ".join(names[:3])}{more})'
