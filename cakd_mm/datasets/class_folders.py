"""The images of a folder that has one folder for each class."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import describe, first_of

# What OpenCV reads, with which mmpretrain loads images.
SUFFIXES = (
    *('.jpg', '.jpeg', '.png', '.bmp', '.webp'),
    *('.tif', '.tiff', '.ppm', '.pgm'),
)
TRAIN = ('train', 'training')
VAL = ('val', 'valid', 'validation', 'test', 'testing')  # the first one that is there

Sample = tuple[str, int]  # the path as seen from the folder, and the label


@dataclass(frozen=True)
class ClassFolders:
    """What a folder of class folders holds.

    Args:
        root (Path): The folder.
        classes (tuple[str, ...]): Names of the classes, sorted; a label is a place in
            them.
        train (list[Sample]): The images, sorted by their path.
        val (list[Sample]): Those for validation; empty if the folder has no such part.
        left_out (Counter): Files that are no images, by suffix.
        unused (list[str]): Parts that are used for nothing, such as a third one.
    """

    root: Path
    classes: tuple[str, ...]
    train: list[Sample]
    val: list[Sample]
    left_out: Counter[str]
    unused: list[str]


def read_class_folders(root: Path, key: str) -> ClassFolders:
    """Find classes and images; nothing of the folder is changed.

    The classes are the folders of ``root``, or those in its parts (:data:`TRAIN` and
    :data:`VAL`, in any case) if it has some. An image may lie deeper in the folder of
    its class. Names that begin with a dot are passed over, and links are followed.

    Args:
        root (Path): The folder.
        key (str): The option or key that named it, for errors.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no class folders, one class alone, a class without images,
            parts with other classes, or a name that no list of images can hold.
    """
    if not root.is_dir():
        problem = f'There is no such folder (looked from {Path.cwd()}).'
        if root.exists():
            problem = 'It is a file.'
        remedy = 'Write the path of a folder with one folder of images for each class.'
        raise FileNotFoundError(describe(key, str(root), problem, remedy))
    parts = _parts(root, key)
    left_out: Counter[str] = Counter()
    train_part, val_part, unused = parts
    train_root = root / train_part
    classes = _folders(train_root)
    if len(classes) < 2:
        problem = 'It has one class folder alone.' if classes else 'No folder is in it.'
        remedy = 'Give each class, at least two, a folder of images in it.'
        raise ValueError(describe(key, str(train_root), problem, remedy))
    _count_loose(train_root, left_out)
    train = _samples(root, train_part, classes, left_out)
    _require_images(key, train_root, classes, train)
    val: list[Sample] = []
    if val_part is not None:
        _require_same_classes(key, root / val_part, classes)
        val = _samples(root, val_part, classes, left_out)
        _require_images(key, root / val_part, (), val)
    return ClassFolders(root, classes, train, val, left_out, unused)


def _parts(root: Path, key: str) -> tuple[str, str | None, list[str]]:
    """Return the parts for training and for validation, and those for nothing.

    The first is '' where the folder has class folders and no parts.
    """
    folders = _folders(root)
    by_name = {name.lower(): name for name in folders}
    train = next((by_name[name] for name in TRAIN if name in by_name), None)
    found = [by_name[name] for name in VAL if name in by_name]
    others = [x for x in folders if x.lower() not in (*TRAIN, *VAL)]
    if train is None or (others and not found):
        return '', None, []  # `train` may be a class, beside `bus`
    if others:
        problem = f'Beside {train} and {found[0]} there is {first_of(others)}.'
        remedy = f'Move it away, or name the folder of the classes, {root / train}.'
        raise ValueError(describe(key, str(root), problem, remedy))
    val = found[0] if found else None
    return train, val, [x for x in folders if x not in (train, val)]


def _folders(root: Path) -> tuple[str, ...]:
    visible = (x for x in root.iterdir() if not x.name.startswith('.'))
    return tuple(sorted(x.name for x in visible if x.is_dir()))


def _count_loose(root: Path, left_out: Counter[str]) -> None:
    """Count images beside the class folders, which are of no class."""
    loose = [x for x in root.iterdir() if x.is_file() and not x.name.startswith('.')]
    left_out.update(f'{x.suffix.lower()} beside the class folders' for x in loose)


def _samples(
    root: Path, part: str, classes: tuple[str, ...], left_out: Counter[str]
) -> list[Sample]:
    """Return the images of all classes, and count what is no image."""
    samples = []
    for label, name in enumerate(classes):
        for file in sorted(_files(root / part / name)):
            if file.suffix.lower() in SUFFIXES:
                samples.append((file.relative_to(root).as_posix(), label))
            else:
                left_out[file.suffix.lower() or 'without a suffix'] += 1
    return samples


def _files(folder: Path) -> Iterator[Path]:
    """Yield the visible files of a folder, also of those below; links are followed."""
    entered = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        inner[:] = [x for x in inner if not x.startswith('.') and real not in entered]
        if real in entered:  # A link leads back to where it lies.
            continue
        entered.add(real)
        for name in files:
            path = Path(place, name)
            if not name.startswith('.') and path.is_file():
                yield path


def _require_images(
    key: str, folder: Path, classes: tuple[str, ...], samples: list[Sample]
) -> None:
    """Raise ValueError if a class has no images, or a name cannot be in a list."""
    labels = {label for _, label in samples}
    empty = [name for label, name in enumerate(classes) if label not in labels]
    if empty or not samples:
        what = f'in {first_of(empty)}' if empty else 'in it'
        problem = f'There are no images {what} ({", ".join(SUFFIXES)}).'
        remedy = 'Put images there, or move the folder away.'
        raise ValueError(describe(key, str(folder), problem, remedy))
    for path, _ in samples:
        if not _is_line(path):
            problem = f'A list of images cannot hold the name {path!r}.'
            remedy = 'Rename it with plain letters.'
            raise ValueError(describe(key, str(folder), problem, remedy))


def _is_line(name: str) -> bool:
    """Return whether a name has no end of a line, and no byte that is no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return '\n' not in name and '\r' not in name


def _require_same_classes(key: str, folder: Path, classes: tuple[str, ...]) -> None:
    """Raise ValueError if the part for validation has a class of its own.

    It may lack classes: scores are then of those that it has.
    """
    extra = sorted(set(_folders(folder)) - set(classes))
    if extra:
        problem = f'It has class folders that training has not: {first_of(extra)}.'
        remedy = 'Give both parts folders of the same names.'
        raise ValueError(describe(key, str(folder), problem, remedy))
