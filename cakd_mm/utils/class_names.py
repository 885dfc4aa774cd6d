"""The names of the classes that a data set or a checkpoint knows."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

# The names of classes in the order of their labels.
Names = tuple[str, ...]


def names_in_checkpoint(checkpoint: Mapping) -> Names | None:
    """Return the classes of the set that a checkpoint was trained on.

    Returns:
        tuple[str, ...] | None: Their names in the order of the labels; None if the
            checkpoint names none.
    """
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    own = meta.get('dataset_meta')
    own = own if isinstance(own, Mapping) else {}
    # MMCV's runner, with which mmcls trained, wrote the names without a dict around.
    return _named(own) or _names(meta.get('CLASSES'))


def names_in_net(net: Any) -> Names | None:
    """Return the classes that the config of a Hugging Face net names.

    Returns:
        tuple[str, ...] | None: Their names in the order of the scores; None if it has
            no such config, or one whose names say nothing (``LABEL_0``).
    """
    config = getattr(getattr(net, 'model', None), 'config', None)
    return names_of_labels(getattr(config, 'id2label', None))


def names_of_labels(labels: Any) -> Names | None:
    """Return the names in ``id2label`` of a Hugging Face config, None if it has none.

    Args:
        labels (Any): Names by label, of which ``LABEL_0`` says nothing.
    """
    names = _names(labels)
    numbered = tuple(f'LABEL_{label}' for label in range(len(names or ())))
    return None if names == numbered else names


def names_in_dataset(dataset: Any, key: str) -> Iterator[tuple[str, Any, Names]]:
    """Yield what the parts of a data set call their classes.

    Args:
        dataset: The data set or its config. Wrappers (repeated, concatenated and others
            that have their set as ``dataset`` or ``datasets``) are looked through.
        key (str): Its config key.

    Yields:
        tuple: Config key, part and names of each part that names its classes.
    """
    parts = _part(dataset, 'datasets')
    if isinstance(parts, (list, tuple)):
        for index, part in enumerate(parts):
            yield from names_in_dataset(part, f'{key}.datasets.{index}')
        return
    for name in ('dataset', '_dataset'):  # mmengine's of `num_batch_per_epoch`
        if (inner := _part(dataset, name)) is not None:
            yield from names_in_dataset(inner, key)
            return
    info = _part(dataset, 'metainfo')
    names = _named(info) if isinstance(info, Mapping) else None
    if isinstance(dataset, Mapping):  # a config may have an argument of its own
        names = _names(dataset.get('classes')) or names
    if names:
        yield key, dataset, names


def first_difference(
    ours: Names,
    theirs: Names,
    are_alike: Callable[[str | None, str | None], bool] = operator.eq,
) -> tuple[int, str | None, str | None] | None:
    """Return label and both names of the first class that differs; None if none does.

    A name is None where the list is shorter.
    """
    for label, (one, other) in enumerate(zip_longest(ours, theirs)):
        if not are_alike(one, other):
            return label, one, other
    return None


def _part(dataset: Any, name: str) -> Any:
    if isinstance(dataset, Mapping):
        return dataset.get(name)
    return getattr(dataset, name, None)


def _named(info: Mapping) -> Names | None:
    """Return the names in the description of a set, also in that of early versions."""
    return _names(info.get('classes')) or _names(info.get('CLASSES'))


def _names(classes: Any) -> Names | None:
    """Return names as text; None unless there are some (but a file of them, say).

    They are a list, an array, or a dict by label.
    """
    if isinstance(classes, Mapping):
        by_label = {str(label): name for label, name in classes.items()}
        classes = [by_label.get(str(label)) for label in range(len(by_label))]
        if None in classes:
            return None
    if hasattr(classes, 'tolist'):
        classes = classes.tolist()
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        return None
    return tuple(map(str, classes)) or None
