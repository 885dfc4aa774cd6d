"""The one place that knows about version skew of the OpenMMLab stack.

Two families of distributions provide the modules ``mmengine``, ``mmcv`` and
``mmpretrain``: the maintained ``onedl-*`` packages (``cakd_mm[current]``) and
the original ones (``cakd_mm[original]``). MMRazor 1.0.0 works with either, but
its import fails on PyTorch >= 2; :func:`import_mmrazor` gets it through.
"""

import argparse
import functools
import importlib
import importlib.util
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from packaging.requirements import Requirement
from packaging.version import Version

CURRENT = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain')
# Each module of the original family has more than one distribution.
ORIGINAL = (('mmengine', 'mmengine-lite'), ('mmcv-lite', 'mmcv'), ('mmpretrain',))
# What both families need; an install without dependencies lacks it.
RUNTIME = ('mmrazor', 'torch', 'torchvision', 'joblib', 'scipy', 'scikit-learn')
# What lies beyond these limits fails without naming a version: mmengine 0.10.7 needs
# `pkg_resources`, for instance, which setuptools 81 no longer has.
LIMITS = {
    'current': ('torch>=2.4',),
    'original': ('torch>=2.1,<2.6', 'numpy<2', 'setuptools<81'),
}


class StackError(ImportError):
    """The installed distributions cannot work together."""


def _refuse(found: str, remedy: str) -> NoReturn:
    raise StackError(f'cakd_mm cannot run: {found} Remedy: {remedy}')


def _use(family: str) -> str:
    return f"pip install 'cakd_mm[{family}]'"


def _installed(*names: str) -> dict[str, str]:
    """Return ``{distribution: version}`` of those ``names`` that are installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def check_stack() -> str:
    """Check the installed distributions and name the family in use.

    Returns:
        str: ``'current'`` or ``'original'``.

    Raises:
        StackError: neither family, both, an incomplete one, or versions that
            cannot work together; the message names what to install.
    """
    current = _installed(*CURRENT)
    original = _installed(*(name for names in ORIGINAL for name in names))
    if current and original:
        _refuse(
            f'{", ".join(current)} and {", ".join(original)} are both installed; they '
            "overwrite each other's files.",
            f'pip uninstall -y {" ".join([*current, *original])}, then '
            f'{_use("current")}.',
        )
    if not (current or original):
        _refuse(
            'neither family of mmengine, mmcv and mmpretrain is installed.',
            f'{_use("current")} (or {_use("original")} for the original packages).',
        )
    family = 'current' if current else 'original'
    members = [(name,) for name in CURRENT] if current else [*ORIGINAL, ('setuptools',)]
    needed = [*members, *((name,) for name in RUNTIME)]
    found = _installed(*(name for names in needed for name in names))
    missing = sorted(names[0] for names in needed if not {*names} & {*found})
    if missing:
        _refuse(f'{", ".join(missing)} not installed.', f'{_use(family)}.')
    _check_versions(family, {**current, **original})
    _check_files(found)
    _check_torchvision(found, family)
    return family


def _check_versions(family: str, members: dict[str, str]) -> None:
    """Compare what is installed with :data:`LIMITS`."""
    [other] = LIMITS.keys() - {family}
    for limit in map(Requirement, LIMITS[family]):
        found = version(limit.name)
        # Of a build such as 2.4.0a0+nv24 the base, 2.4.0, tells the interface.
        if not limit.specifier.contains(Version(found).base_version):
            _refuse(
                f'the {family} family needs {limit}, found {found}.',
                f'{_use(family)}, which installs what fits; or change families: '
                f'pip uninstall -y {" ".join(members)}, then {_use(other)}.',
            )


def _check_files(found: dict[str, str]) -> None:
    """Find modules whose files went with another distribution of the same name."""
    for name in found:
        module = name.removeprefix('onedl-').removesuffix('-lite')
        if not module.startswith('mm'):
            continue
        spec = importlib.util.find_spec(module)
        # An empty folder left behind is a module without origin.
        if spec is None or spec.origin is None:
            _refuse(
                f'{name} is installed, but there is no module {module}; uninstalling '
                'another distribution of that module has removed its files.',
                f'pip install --force-reinstall --no-deps {name}=={found[name]}.',
            )


def _check_torchvision(found: dict[str, str], family: str) -> None:
    """A torchvision for another torch (CPU and CUDA mixed, say) fails on import."""
    importlib.import_module('torch')
    try:
        importlib.import_module('torchvision')
    except (ImportError, OSError, RuntimeError) as error:
        _refuse(
            f'torchvision {found["torchvision"]} is not made for torch '
            f'{found["torch"]} ({error}).',
            f'pip uninstall -y torch torchvision, then {_use(family)}, which takes '
            'both from one index.',
        )


def import_mmrazor() -> None:
    """Import MMRazor with all that it registers, whatever the torch version.

    MMRazor 1.0.0, its last release, asserts mmcv <= 2.1.0, and takes torch >= 1.13 to
    mean that private quantisation APIs of exactly 1.13 exist. Distillation uses no
    quantisation, so both versions are masked during the import, and only then.
    """
    masked = version('mmrazor') == '1.0.0'
    with _masked_versions() if masked else nullcontext():
        from mmrazor.utils import register_all_modules

        register_all_modules(init_default_scope=False)


@contextmanager
def _masked_versions() -> Iterator[None]:
    """Import the bare MMRazor past its assertion, and let it take torch for 1.12.

    What is masked is put back in every module that took a copy, because MMRazor's
    tracer asks for the version of torch again when it runs. The module mmcls is
    hidden: MMRazor imports this former name of mmpretrain where it can, and mmcls
    refuses mmcv >= 2.1.
    """
    import mmcv
    import torch

    mmcv_version, mmcv.__version__ = mmcv.__version__, '2.1.0'
    try:
        import mmrazor
    finally:
        mmcv.__version__ = mmcv_version
    genuine = mmrazor.digit_version

    def masked(text: str):
        return genuine('1.12.0' if text == torch.__version__ else text)

    mmrazor.digit_version = masked
    hides_mmcls = sys.modules.setdefault('mmcls', None) is None
    try:
        yield
    finally:
        if hides_mmcls:
            del sys.modules['mmcls']
        for name, module in sys.modules.copy().items():
            copy = name.startswith('mmrazor') and vars(module).get('digit_version')
            if copy is masked:
                module.digit_version = genuine


def register_package() -> None:
    """Let mmengine read ``cakd_mm::...`` wherever it reads a config's name.

    For a name without a distribution mmengine takes the folder of the module, which
    is right for a clone, an editable install and a wheel. By the distribution's name
    the original mmengine misses an editable install, and either one may find another
    copy than the one that is imported.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.setdefault('cakd_mm', 'cakd_mm.version')
    # The first reads configs of the old style, the second those of the new one.
    for name in ('_file2dict', '_parse_lazy_import'):
        read = getattr(Config, name)
        if not hasattr(read, 'genuine'):
            setattr(Config, name, staticmethod(_with_own_bases(read)))


def _with_own_bases(genuine: Callable) -> Callable:
    """Return a reader of configs that takes a base by name as the file it names.

    Two things are changed in what mmengine has read:

    - mmengine notes the package of a base ``package::...`` as the scope of what is
      built from it. Our configs are written for the scope ``mmpretrain``, as mmengine
      takes them when they are read by path, and there is no registry of ours.
    - A relative ``cfg_path`` of a net belongs to the file that says it. Later nobody
      knows which file that was, so the path is made absolute here, if there is such a
      file.
    """

    @functools.wraps(genuine)
    def read(filename: str, *args: Any, **kwargs: Any) -> tuple:
        content, *rest = genuine(filename, *args, **kwargs)
        _as_in_file(content, Path(filename).expanduser().absolute().parent)
        return (content, *rest)

    read.genuine = genuine  # type: ignore[attr-defined]
    return read


def _as_in_file(node: Any, folder: Path, is_net: bool = False) -> None:
    """Drop our scope, and anchor each net's ``cfg_path``, in a config file's content.

    The plain ``dict`` methods are used, because those of mmengine's dicts build what is
    imported lazily.
    """
    if isinstance(node, dict):
        if dict.get(node, '_scope_') == 'cakd_mm':
            dict.pop(node, '_scope_')
        path = dict.get(node, 'cfg_path')
        with suppress(OSError):  # A name may be too long for a path.
            if is_net and isinstance(path, str) and (folder / path).is_file():
                dict.__setitem__(node, 'cfg_path', str(folder / path))
        for name, value in list(dict.items(node)):
            _as_in_file(value, folder, name in ('architecture', 'teacher'))
    elif isinstance(node, (list, tuple)):
        for value in node:
            _as_in_file(value, folder, is_net)


def load_data_only(path: str) -> Any:
    """Read a torch file on the CPU without running any code that it may hold.

    Beside tensors and plain containers, numbers of numpy and an argument parser's
    options are taken, which training scripts store with the weights; before torch
    2.5 these are refused as well.

    Raises:
        pickle.UnpicklingError: the file holds something else.
    """
    import torch

    # In torch 2.4 and before, nothing can be allowed for one file alone.
    allow = getattr(torch.serialization, 'safe_globals', lambda _: nullcontext())
    try:
        with allow(_plain_data()):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own message first tells how to run the file's code after all.
        found = re.search(r'(?:GLOBAL|class) ([\w.]+)', str(error))
        text = 'it is not as torch.save writes files'
        if found:
            text = f'it holds `{found[1].rstrip(".")}`, which could run code on loading'
        raise pickle.UnpicklingError(text) from None


def _plain_data() -> list:
    """Return the classes and functions that numbers of numpy and options consist of."""
    import numpy as np

    kinds = {type(np.dtype(name)) for name in ('f4', 'f8', 'i4', 'i8', '?')}
    make = np.float64(0).__reduce__()[0]
    allowed = [argparse.Namespace, np.dtype, *kinds]
    # Numpy 1 and numpy 2 write different names of the function that makes a number.
    # Torch finds an allowed function by its name; only torch >= 2.6 lets one give
    # another name, so the function is wrapped and the wrapper renamed.
    for core in ('core', '_core'):
        scalar = functools.partial(make)
        scalar.__module__, scalar.__qualname__ = f'numpy.{core}.multiarray', 'scalar'
        allowed.append(scalar)
    return allowed
