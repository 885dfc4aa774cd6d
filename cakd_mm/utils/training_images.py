"""What the config of a run says about its training images."""

from collections.abc import Mapping
from typing import Any

from .type_names import class_name

# Sets whose images are RGB. Those in files are loaded as BGR.
RGB_SETS = ('CIFAR10', 'CIFAR100')
# mmpretrain's step that makes several views of an image, by lists of steps.
MULTI_VIEW = 'MultiView'


def training_set(config: Mapping) -> tuple[Mapping, list[Mapping] | None]:
    """Return the training set that wrappers hold, and the steps of its pipeline.

    Args:
        config (Mapping): Of mmengine, or of the runner that mmcls 0.x trained with.

    Returns:
        tuple[Mapping, list[Mapping] | None]: The config of the set, empty if there is
        none. The steps are those of the set and then those of its wrappers; None if
        they are written as what only code can make. Those of each view follow the
        step that makes the views.
    """
    loader, key = config.get('train_dataloader'), 'dataset'
    if loader is None and isinstance(config.get('data'), Mapping):
        loader, key = config['data'], 'train'
    node: Any = loader.get(key) if isinstance(loader, Mapping) else None
    found: Mapping = {}
    steps: list[Mapping] | None = []
    while isinstance(node, Mapping):
        found = node
        own = node.get('pipeline', ())
        is_known = isinstance(own, (list, tuple)) and None not in own
        steps = [*own, *steps] if is_known and steps is not None else None
        parts = node.get('datasets')
        node = parts[0] if isinstance(parts, (list, tuple)) and parts else None
        node = node or found.get('dataset')
        if node is None and 'dataset' in found:
            steps = None
    if steps is not None:
        known = (step for step in steps if isinstance(step, Mapping))
        steps = [inner for step in known for inner in _spread(step)]
    return found, steps


def _spread(step: Mapping) -> list[Mapping]:
    """Return a step, and after it the steps of the views that it makes."""
    views = step.get('transforms') if name_of(step) == MULTI_VIEW else ()
    inner = (x for view in views or () if isinstance(view, (list, tuple)) for x in view)
    return [step, *(x for x in inner if isinstance(x, Mapping))]


def name_of(part: Mapping) -> str:
    """Return the name of a part's class; empty if only code could tell it."""
    kind = part.get('type')
    return class_name(kind) if isinstance(kind, str) or callable(kind) else ''


def loading(config: Mapping) -> str | None:
    """Return what loads the images: a step of the pipeline, or else the data set."""
    dataset, steps = training_set(config)
    loads = [name for name in map(name_of, steps or ()) if name.startswith('LoadImage')]
    return loads[0] if loads else name_of(dataset) if dataset else None


def preprocessing_of_files(config: Mapping) -> dict[str, Any]:
    """Return what a net that a config has trained expects of images in files.

    Args:
        config (Mapping): Of mmengine.

    Returns:
        dict[str, Any]: ``mean``, ``std`` and ``to_rgb`` of ``data_preprocessor``, as
        far as it says them.
    """
    made = config.get('data_preprocessor')
    made = made if isinstance(made, Mapping) else {}
    kept = {x: made[x] for x in ('mean', 'std', 'to_rgb') if made.get(x) is not None}
    if 'to_rgb' in kept and loading(config) in RGB_SETS:
        kept['to_rgb'] = not kept['to_rgb']
    return kept


def size_of(config: Mapping) -> tuple[int, int] | None:
    """Return height and width of the training images; None if nothing says them."""
    dataset, steps = training_set(config)
    found = pair_of(dataset.get('size'))
    for step in steps or ():
        name = name_of(step)
        if name == 'Resize' or 'Crop' in name:
            values = (step.get(key) for key in ('crop_size', 'size', 'scale'))
            pair = next(filter(None, map(pair_of, values)), None)
            # mmcv's Resize takes the width first.
            turned = pair and name == 'Resize' and 'scale' in step
            found = (pair[1], pair[0]) if pair and turned else pair or found
    return found


def pair_of(size: Any) -> tuple[int, int] | None:
    """Return a size as height and width; None if it is none."""
    pair = [size, size] if isinstance(size, int) else size
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        return None
    fits = all(type(x) is int and x > 0 for x in pair)
    return (pair[0], pair[1]) if fits else None
