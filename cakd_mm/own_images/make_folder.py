"""The folder of results, made whole or not at all."""

import os
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch.nn.modules.batchnorm import _BatchNorm

from ..datasets.class_folders import ClassFolders, read_class_folders
from ..datasets.image_sizes import read_sides
from ..datasets.stratified_split import stratified_split
from ..engine.launch.config import require_utf8
from ..utils.errors import describe, first_of
from ..utils.net_names import NamedNet, named_net, with_classes, without_downloads
from .leaf import data_text, net_text, schedule_text, student_text
from .methods import method_base
from .options import Options
from .result_folder import LISTS, ResultFolder
from .settings import Settings, optimizer_for
from .teacher_weights import TeacherWeights, read_teacher_weights
from .trial import try_net, try_pair


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
    settings = Settings.choose(options, sides, len(folders.train))
    student = named_net(options.student, '--student')
    teacher = named_net(options.teacher, '--teacher')
    weights = None
    if options.teacher_ckpt is not None:
        file = options.as_record()['teacher_ckpt']
        weights = read_teacher_weights(str(file), teacher, folders.classes)
    folder = ResultFolder(path, {}, options.as_record())
    texts = {
        'data.py': data_text(folders, settings, path),
        'schedule.py': schedule_text(settings, options.seed),
        'alone.py': _net_text(student, '--student', folders, settings, path / 'alone'),
        'teacher.py': _net_text(
            teacher, '--teacher', folders, settings, path / 'teacher', weights
        ),
        'student.py': _student_text(method, path, weights),
        **{
            name: ''.join(_line(*sample) for sample in part)
            for name, part in zip(LISTS, (folders.train, folders.val), strict=True)
        },
    }
    with _new_folder(path) as place:
        for name, text in texts.items():
            (place / name).write_text(text, encoding='utf-8')
        try:
            try_pair(place / 'student.py', settings.size, len(folders.classes))
        except ValueError as error:
            if '`model.distiller.' not in str(error):
                raise
            problem = f'These nets lack what it compares ({error}).'
            remedy = 'Compare logits alone: cakd, kd, dkd, nkd or dist, say.'
            raise ValueError(
                describe('--method', options.method, problem, remedy)
            ) from error
        folder.write_record(place)
    return folder


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


def _net_text(
    named: NamedNet,
    key: str,
    folders: ClassFolders,
    settings: Settings,
    work_dir: Path,
    weights: TeacherWeights | None = None,
) -> str:
    """Return the config of a net that has been tried."""
    classes = weights.classes if weights else len(folders.classes)
    net, left_out = without_downloads(with_classes(named.net, classes))
    for url in left_out:
        print(f'{named.name} begins at random: nothing is downloaded ({url}).')
    built = try_net(net, named.name, key, settings.size, classes)
    begins_with = weights.file if weights and not weights.is_whole else None
    norm = any(isinstance(x, _BatchNorm) for x in built.modules())
    optimizer = optimizer_for(norm, begins_with is not None, settings.batch_size)
    seen = dict(weights.preprocessor or named.preprocessor) if weights else None
    title = f'{named.name!r}, for {classes} classes.'
    return net_text(title, net, work_dir, optimizer, named.imports, seen, begins_with)


def _student_text(method: str, path: Path, weights: TeacherWeights | None) -> str:
    """Return the config of the student with its teacher."""
    if weights is not None and weights.is_whole:
        return student_text(
            method, repr(weights.file), None, weights.chosen, path / 'student'
        )
    # Whoever changes the epochs in schedule.py changes the teacher's last checkpoint.
    last = "f'{_base_.train_cfg.max_epochs}.pth'"
    checkpoint = f'{str(path / "teacher" / "epoch_")!r} + {last}'
    command = f'cakd-mm train {shlex.quote(str(path / "teacher.py"))}'
    return student_text(method, checkpoint, command, None, path / 'student')
