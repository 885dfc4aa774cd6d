"""The nets that people call by a name: on a command line, say."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from mmpretrain.apis import ModelHub, list_models

from .errors import describe, nearest
from .net_config import net_config, read_named
from .training_images import preprocessing_of_files
from .type_names import as_written

# The folders of configs that hold one net each, by package.
OURS = 'cakd_mm'
FOLDERS = {OURS: 'vanilla', 'mmpretrain': '_base_/models'}


@dataclass
class NamedNet:
    """A net as its name or config says it.

    Args:
        name (str): What it was called.
        net (ConfigDict): Its config, whole, with names in the place of classes.
        preprocessor (dict): Its images' ``mean``, ``std`` and ``to_rgb``, as far as
            its config says them. Defaults to {}.
        imports (list[str]): Modules that its config imports. Defaults to [].
    """

    name: str
    net: ConfigDict
    preprocessor: dict[str, Any] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)


def named_net(name: str, key: str) -> NamedNet:
    """Return the net of a name.

    A name is the path of a config, ``package::path``, the name of one of our configs in
    ``vanilla``, that of a net of mmpretrain (``resnet18``, in its ``_base_/models``, or
    ``swin_transformer/tiny_224``, because several have a ``tiny_224``), or that of a
    config in an index (``mmpretrain.list_models()``). A word before a single colon
    chooses one of :data:`RESOLVERS`.

    Args:
        name (str): The name.
        key (str): The option or key that has it, for errors.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: there is no net of that name, or the config has none.
    """
    prefix, rest = _split(name)
    if prefix not in RESOLVERS:
        known = ', '.join(f'{prefix}:NAME' for prefix in RESOLVERS if prefix)
        problem = f'Nets of {prefix!r} are not known.'
        remedy = f'Write NAME, {known}, package::path or the path of a config.'
        raise ValueError(describe(key, name, problem, remedy))
    return RESOLVERS[prefix](rest, name, key)


def _split(name: str) -> tuple[str, str]:
    """Return the word before a single colon, '' if there is none, and the rest."""
    found = re.fullmatch(r'(\w+):(?!:)(.*)', name)
    return (found[1], found[2]) if found else ('', name)


def _any_net(rest: str, name: str, key: str) -> NamedNet:
    if rest.endswith('.py') or '::' in rest:
        return _of_config(rest, name, key)
    for package in FOLDERS:
        if rest in (found := _files(package)):
            return _of_config(found[rest], name, key)
    return _of_index(rest, name, key)


def _of_mmpretrain(rest: str, name: str, key: str) -> NamedNet:
    found = _files('mmpretrain')
    if rest in found:
        return _of_config(found[rest], name, key)
    return _of_index(rest, name, key)


def _files(package: str) -> dict[str, str]:
    """Return the names of a package's nets, and of their configs.

    A config is called by its stem or, where several have that, by its path in the
    folder, ``swin_transformer/tiny_224``. One of ours may lack the data set,
    ``resnet20`` for ``resnet20_digits``, because the nets of all sets are the same, the
    number of classes apart.
    """
    spec = find_spec(package)
    root = Path(spec.origin or '').parent / '.mim' / 'configs' if spec else Path()
    folder = root / FOLDERS[package]
    files = sorted(folder.rglob('*.py'))
    stems = Counter(x.stem for x in files)
    names = {}
    for file in files:
        path = file.relative_to(folder).with_suffix('').as_posix()
        for name in [path, file.stem] if stems[file.stem] == 1 else [path]:
            names[name] = f'{package}::{file.relative_to(root).as_posix()}'
    if package == OURS:
        short = {stem.rpartition('_')[0]: name for stem, name in names.items()}
        names = short | names
    return names


def _of_index(rest: str, name: str, key: str) -> NamedNet:
    names = list_models()
    if rest.lower() not in names:
        known = {*names, *(x for package in FOLDERS for x in _files(package))}
        problem = 'There is no net of that name.'
        remedy = f'Like it: {nearest(rest, known)}. A config is named by its path, '
        remedy += 'which ends in .py, or as package::path.'
        raise ValueError(describe(key, name, problem, remedy))
    return _of_config(ModelHub.get(rest).config.filename, name, key)


def _of_config(path: str, name: str, key: str) -> NamedNet:
    file = read_named(path, key)
    net = as_written(net_config(ConfigDict(cfg_path=path), key))
    net.pop('data_preprocessor', None)
    seen = preprocessing_of_files(file)
    imports = file.get('custom_imports') or {}
    modules = imports.get('imports') or []
    modules = [modules] if isinstance(modules, str) else list(modules)
    return NamedNet(name, net, seen, [x for x in modules if x != 'cakd_mm'])


RESOLVERS: dict[str, Callable[[str, str, str], NamedNet]] = {
    '': _any_net,
    'mmpretrain': _of_mmpretrain,
}


def with_classes(net: ConfigDict, classes: int) -> ConfigDict:
    """Return a net's config for another number of classes.

    Each ``num_classes`` is changed, also that of the head's loss and of a backbone that
    ends in a classifier. Mixing of batches is left out, because that is done where the
    batches are made.
    """
    net = ConfigDict(_count(net.to_dict(), classes))
    net.pop('train_cfg', None)
    return net


def _count(node: Any, classes: int) -> Any:
    if isinstance(node, Mapping):
        return {
            key: classes if key == 'num_classes' else _count(value, classes)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return type(node)(_count(value, classes) for value in node)
    return node


def without_downloads(net: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """Return a net's config without weights that lie on a server, and where these lie.

    ``init_cfg`` names such weights, in the net or in a part of it.
    """
    left_out = list(_drop_remote(net))
    return net, left_out


def _drop_remote(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for part in node:
            yield from _drop_remote(part)
    if not isinstance(node, dict):
        return
    init = node.get('init_cfg')
    checkpoint = init.get('checkpoint') if isinstance(init, Mapping) else None
    if isinstance(checkpoint, str) and '://' in checkpoint:
        del node['init_cfg']
        yield checkpoint
    for part in node.values():
        yield from _drop_remote(part)
