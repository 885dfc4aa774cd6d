"""The nets that people call by a name: on a command line, say."""

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import describe, nearest
from .config_nets import (
    FOLDERS,
    configs_of,
    index_names,
    net_of_config,
    net_of_index,
)
from .fitted import with_classes, without_downloads
from .hugging_face_nets import of_hugging_face
from .named import NamedNet
from .timm_nets import of_timm, timm_names
from .torchvision_nets import of_torchvision, torchvision_names

__all__ = [
    'NamedNet',
    'as_absolute',
    'named_net',
    'with_classes',
    'without_downloads',
]


def named_net(name: str, key: str) -> NamedNet:
    """Return the net of a name.

    A name is the path of a config, ``package::path``, the name of one of our configs in
    ``vanilla``, that of a net of mmpretrain (``resnet18``, in its ``_base_/models``, or
    ``swin_transformer/tiny_224``, because several have a ``tiny_224``), or that of a
    config in an index (``mmpretrain.list_models()``). A word before a single colon
    chooses one of :data:`RESOLVERS`: ``timm:NAME``, ``torchvision:NAME``, or
    ``hf:FOLDER`` of a model that transformers saved.

    Args:
        name (str): The name.
        key (str): The option or key that has it, for errors.

    Raises:
        FileNotFoundError: there is no such config or folder.
        ImportError: the package whose net it is is missing.
        ValueError: there is no net of that name, or the config has none.
    """
    prefix, rest = _split(name)
    if prefix not in RESOLVERS:
        problem = f'Nets of {prefix!r} are not known.'
        remedy = 'Write NAME, mmpretrain:NAME, timm:NAME, torchvision:NAME, hf:FOLDER, '
        remedy += 'package::path or the path of a config.'
        raise ValueError(describe(key, name, problem, remedy))
    return RESOLVERS[prefix](rest, name, key)


def as_absolute(name: str) -> str:
    """Return a name that means the same net in every current folder."""
    prefix, rest = _split(name)
    path = Path(rest).expanduser()
    if prefix == HUGGING_FACE and path.is_dir():
        return f'{prefix}:{path.resolve()}'
    return str(path.resolve()) if not prefix and path.is_file() else name


def _split(name: str) -> tuple[str, str]:
    """Return the word before a single colon, '' if there is none, and the rest."""
    found = re.fullmatch(r'(\w+):(?!:)(.*)', name)
    return (found[1], found[2]) if found else ('', name)


def _any_net(rest: str, name: str, key: str) -> NamedNet:
    if rest.endswith('.py') or '::' in rest:
        return net_of_config(rest, name, key)
    return _of_packages([*FOLDERS], rest, name, key)


def _of_mmpretrain(rest: str, name: str, key: str) -> NamedNet:
    return _of_packages(['mmpretrain'], rest, name, key)


def _of_packages(packages: list[str], rest: str, name: str, key: str) -> NamedNet:
    """Return the net that a package has a config of, or mmpretrain's index names."""
    for package in packages:
        if rest in (found := configs_of(package)):
            return net_of_config(found[rest], name, key)
    if rest.lower() in index_names():
        return net_of_index(rest, name, key)
    known = {*index_names(), *(x for package in FOLDERS for x in configs_of(package))}
    elsewhere = dict(timm=timm_names, torchvision=torchvision_names)
    same = [repr(f'{x}:{rest}') for x, names in elsewhere.items() if rest in names()]
    problem = 'There is no net of that name.'
    remedy = f'Like it: {", ".join([nearest(rest, known), *same])}. A config is named '
    remedy += 'by its path, which ends in .py, or as package::path.'
    raise ValueError(describe(key, name, problem, remedy))


HUGGING_FACE = 'hf'
RESOLVERS: dict[str, Callable[[str, str, str], NamedNet]] = {
    '': _any_net,
    'mmpretrain': _of_mmpretrain,
    'timm': of_timm,
    HUGGING_FACE: of_hugging_face,
    'torchvision': of_torchvision,
}
