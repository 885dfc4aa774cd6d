"""Nets of configs: of a file, of ours, of mmpretrain's folder or of its index."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import ConfigDict
from mmpretrain.apis import ModelHub, list_models

from ..net_config import net_config, read_named
from ..training_images import preprocessing_of_files
from ..type_names import as_written
from .named import NamedNet

# The folders of configs that hold one net each, by package.
OURS = 'cakd_mm'
FOLDERS = {OURS: 'vanilla', 'mmpretrain': '_base_/models'}


def configs_of(package: str) -> dict[str, str]:
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


def index_names() -> list[str]:
    """Return the names of the nets that mmpretrain publishes, in small letters."""
    return list_models()


def net_of_config(path: str, name: str, key: str) -> NamedNet:
    """Return the net of a config, that of a file or of ``package::path``.

    Raises:
        FileNotFoundError, ValueError: as :func:`net_config` does.
    """
    file = read_named(path, key)
    net = as_written(net_config(ConfigDict(cfg_path=path), key))
    net.pop('data_preprocessor', None)
    seen = preprocessing_of_files(file)
    imports = file.get('custom_imports') or {}
    modules = imports.get('imports') or []
    modules = [modules] if isinstance(modules, str) else list(modules)
    return NamedNet(name, net, seen, [x for x in modules if x != 'cakd_mm'])


def net_of_index(rest: str, name: str, key: str) -> NamedNet:
    """Return a net that mmpretrain publishes."""
    return net_of_config(ModelHub.get(rest).config.filename, name, key)
