"""The folder of results, made whole or not at all."""

import os
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict

from ..datasets.class_folders import ClassFolders, read_class_folders
from ..datasets.image_sizes import read_sides, training_size
from ..datasets.stratified_split import stratified_split
from ..engine.launch.config import require_utf8
from ..utils.errors import describe, first_of
from ..utils.net_names import named_net
from .leaf import data_text, net_text, resized_text, schedule_text, student_text
from .methods import method_base
from .options import Options
from .result_folder import LISTS, ResultFolder
from .settings import Settings, optimizer_for
from .trial import try_pair
from .tried_net import TriedNet, tried

# Weights that mmengine does not find in the file they come in.
BEGINNING = '{}_begins_with.pth'


def make_folder(path: Path, options: Options) -> ResultFolder:
    """Look at everything, and write the configs; nothing is trained yet.

    Args:
        path (Path): The folder, absolute. It appears when all is written and tried.
        options (Options): What is asked for.

    Raises:
        FileNotFoundError, OSError, ValueError: what was asked for cannot be done;
            naming the option or the file.
    """
    require_utf8(path, '--out')
    method = method_base(options.method)
    if path.is_relative_to(options.data.resolve()):
        problem = 'It lies in the folder of the images.'
        raise ValueError(
            describe('--out', str(path), problem, 'Give a folder outside of it.')
        )
    folders, sides = _read_data(options)
    student, teacher = _tried_nets(options, folders, sides)
    fitting = replace(options, size=student.size)
    settings = Settings.choose(fitting, sides, len(folders.train))
    texts = {
        'data.py': data_text(folders, settings, path),
        'schedule.py': schedule_text(settings, options.seed),
        'alone.py': _student_alone(student, settings, path),
        **{
            name: ''.join(_line(*sample) for sample in part)
            for name, part in zip(LISTS, (folders.train, folders.val), strict=True)
        },
    }
    with _new_folder(path) as place:
        for name, text in texts.items():
            (place / name).write_text(text, encoding='utf-8')

        def attempt(teacher: TriedNet) -> None:
            pair = {
                'teacher.py': _teacher_text(teacher, settings, path),
                'student.py': _student_text(method, teacher, settings, path),
            }
            for name, text in pair.items():
                (place / name).write_text(text, encoding='utf-8')
            try_pair(place / 'student.py', settings.size, len(folders.classes))

        try:
            teacher = _first_that_fits(teacher, attempt)
        except ValueError as error:
            if '`model.distiller.' not in str(error):
                raise
            problem = f'It does not go with these nets and images ({error}).'
            remedy = 'Take cakd, kd, dkd, nkd or dist, say, or write it into a '
            remedy += 'student.py, as the page "Your own images" shows.'
            if not teacher.classes:
                remedy = 'Name a teacher with a classifier, or compare what comes '
                remedy += 'before it: crd, say.'
            raise ValueError(
                describe('--method', options.method, problem, remedy)
            ) from error
        for net, name in ((student, 'student'), (teacher, 'teacher')):
            net.introduce()
            weights = net.weights
            is_trained = net is student or not (weights and weights.is_whole)
            if weights is not None and weights.renamed is not None and is_trained:
                weights.save_renamed(place / BEGINNING.format(name))
        # What has no classifier cannot be scored.
        known = {} if teacher.classes else dict(teacher=dict(top1=None))
        folder = ResultFolder(path, known, options.as_record())
        folder.write_record(place)
    return folder


def _first_that_fits(
    teacher: TriedNet, attempt: Callable[[TriedNet], None]
) -> TriedNet:
    """Return the teacher as it is published, or trained if the method asks for more.

    Args:
        teacher (TriedNet): The teacher, with a classifier.
        attempt (Callable): Computes the losses once.

    Raises:
        ValueError: they cannot be computed with either of these.
    """
    if (bare := teacher.without_classifier()) is not None:
        try:
            attempt(bare)
            return bare
        except ValueError:  # A method that compares logits, say.
            pass
    attempt(teacher)
    return teacher


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Make a hidden folder beside ``path``, which takes its place at the end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f'.{path.name}_', dir=path.parent))
    except OSError as error:
        problem = f'Nothing can be written there ({error.strerror or error}).'
        raise OSError(
            describe('--out', str(path), problem, 'Give another folder.')
        ) from error
    try:
        yield place
        place.chmod(0o777 & ~_umask())  # mkdtemp lets its owner alone in
        os.replace(place, path)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _line(name: str, label: int) -> str:
    """Return the line of a list; the reader drops spaces at its start."""
    return f'{"./" if name[0].isspace() else ""}{name} {label}\n'


def _read_data(options: Options) -> tuple[ClassFolders, list[int]]:
    """Return the images, in two parts, and their shorter sides.

    Raises:
        FileNotFoundError, ValueError: naming what is wrong with the folder.
    """
    root = options.data.resolve()
    found = read_class_folders(root, 'DATA')
    images = [*found.train, *found.val]
    count = f'{len(images)} images of {len(found.classes)} classes'
    print(f'{root}: {count}: {first_of([*found.classes])}.')
    if found.left_out:
        kinds = ', '.join(f'{n} {kind}' for kind, n in found.left_out.most_common())
        print(f'Left out, because they are no images of a class: {kinds}.')
    if found.unused:
        print(f'Not used: {first_of(found.unused)}.')
    sides, faults = read_sides(root, [name for name, _ in images])
    if faults:
        each = [f'{name} ({fault})' for name, fault in faults.items()]
        problem = f'{len(faults)} of its images cannot be read: {first_of(each)}.'
        remedy = 'Move them away, and give the same command again.'
        raise ValueError(describe('DATA', str(root), problem, remedy))
    if not found.val:
        train, val = stratified_split(found.train, options.val_share, options.seed)
        counts = Counter(label for _, label in found.train)
        single = [found.classes[x] for x, count in counts.items() if count == 1]
        if single:
            print(f'With one image, which is trained on: {first_of(single)}.')
        found = replace(found, train=train, val=val)
    if not found.val:
        problem = 'No class has two images, so that none is left to score.'
        raise ValueError(
            describe('DATA', str(root), problem, 'Give each class more images.')
        )
    return found, list(sides.values())


def _tried_nets(
    options: Options, folders: ClassFolders, sides: Sequence[int]
) -> tuple[TriedNet, TriedNet]:
    """Return student and teacher; the student says how large the images are."""
    files = options.resolved()
    student = named_net(options.student, '--student')
    teacher = named_net(options.teacher, '--teacher')
    sizes = [options.size] if options.size else [training_size(sides), student.size]
    names = folders.classes
    pupil = tried(student, '--student', files.student_ckpt, names, sizes, True)
    sizes = [pupil.size, teacher.size]
    return pupil, tried(teacher, '--teacher', files.teacher_ckpt, names, sizes, False)


def _begins_with(net: TriedNet, name: str, path: Path) -> str | None:
    """Return the file of the weights that a training begins with."""
    if net.weights is None:
        return None
    is_plain = net.weights.renamed is None
    return net.weights.file if is_plain else str(path / BEGINNING.format(name))


def _student_alone(net: TriedNet, settings: Settings, path: Path) -> str:
    """Return the config of the student alone, whose net has its first weights."""
    file = _begins_with(net, 'student', path)
    config = ConfigDict(net.net)
    if file is not None:
        config.init_cfg = dict(type='Pretrained', checkpoint=file)
    return _net_text(net, config, settings, path / 'alone', file is not None)


def _teacher_text(net: TriedNet, settings: Settings, path: Path) -> str:
    """Return the config of the teacher, which may be trained already."""
    file = None
    if net.weights is not None and not net.weights.is_whole:
        file = _begins_with(net, 'teacher', path)
    begins = dict(load_from=file) if file is not None else {}
    place = path / 'teacher'
    text = _net_text(net, net.net, settings, place, file is not None, **begins)
    own = net.size != settings.size
    return text + resized_text(net.size, settings.size) if own else text


def _net_text(
    net: TriedNet,
    config: ConfigDict,
    settings: Settings,
    work_dir: Path,
    is_pretrained: bool,
    **entries: Any,
) -> str:
    optimizer = optimizer_for(net.has_batch_norm, is_pretrained, settings.batch_size)
    scores = f'for {net.classes} classes' if net.classes else 'without a classifier'
    title = f'{net.named.name!r}, {scores}.'
    imports, seen = net.named.imports, net.preprocessor
    return net_text(title, config, work_dir, optimizer, imports, seen, **entries)


def _student_text(
    method: str, teacher: TriedNet, settings: Settings, path: Path
) -> str:
    """Return the config of the student with its teacher."""
    size = teacher.size if teacher.size != settings.size else None
    weights, place = teacher.weights, path / 'student'
    if weights is not None and weights.is_whole:
        file = repr(weights.file)
        return student_text(method, file, None, weights.chosen, place, size)
    # Whoever changes the epochs in schedule.py changes the teacher's last checkpoint.
    last = "f'{_base_.train_cfg.max_epochs}.pth'"
    checkpoint = f'{str(path / "teacher" / "epoch_")!r} + {last}'
    command = f'cakd-mm train {shlex.quote(str(path / "teacher.py"))}'
    return student_text(method, checkpoint, command, None, place, size)
