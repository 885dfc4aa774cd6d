"""The one place that knows about version skew of the OpenMMLab stack.

Two families of distributions provide the modules ``mmengine``, ``mmcv`` and
``mmpretrain``: the maintained ``onedl-*`` packages (``cakd_mm[current]``) and
the original ones (``cakd_mm[original]``). MMRazor 1.0.0 works with either, but
its import fails on PyTorch >= 2; :func:`import_mmrazor` gets it through.
"""

import argparse
import ast
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

CURRENT = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain')
# Each module of the original family has more than one distribution.
ORIGINAL = (('mmengine', 'mmengine-lite'), ('mmcv-lite', 'mmcv'), ('mmpretrain',))
# What both families need; an install without dependencies lacks it.
RUNTIME = ('mmrazor', 'torch', 'torchvision', 'joblib', 'scipy', 'scikit-learn')
USE_CURRENT = "pip install 'cakd_mm[current]'"
USE_ORIGINAL = "pip install 'cakd_mm[original]'"

# These modules of MMRazor 1.0.0 take torch >= 1.13 to mean that private
# quantisation APIs of exactly 1.13 exist.
_QUANTISATION = (
    'structures/quantization/backend_config/common_operator_config_utils.py',
    'structures/quantization/backend_config/mapping.py',
    'models/quantizers/native_quantizer.py',
)
_LAST_MMCV_OF_MMRAZOR = '2.1.0'


class StackError(ImportError):
    """The installed distributions cannot work together."""


def _installed(*names: str) -> dict[str, str]:
    """Return ``{distribution: version}`` of those ``names`` that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _release(text: str) -> tuple[int, ...]:
    """Return the leading integers of a version: ``'2.5.1+cu121'`` -> ``(2, 5, 1)``."""
    numbers = []
    for part in text.split('+')[0].split('.'):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _require(ok: bool, found: str, remedy: str) -> None:
    if not ok:
        raise StackError(f'cakd_mm cannot run: {found} Remedy: {remedy}')


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
    _require(
        not (current and original),
        f'{_names(current)} and {_names(original)} are both installed; they '
        "overwrite each other's files.",
        f'pip uninstall -y {" ".join([*current, *original])}, then {USE_CURRENT}.',
    )
    _require(
        bool(current or original),
        'neither family of mmengine, mmcv and mmpretrain is installed.',
        f'{USE_CURRENT} (or {USE_ORIGINAL} for the original packages).',
    )
    extra = USE_CURRENT if current else USE_ORIGINAL
    runtime = _installed(*RUNTIME)
    missing = set(RUNTIME) - set(runtime)
    _require(not missing, f'{_names(missing)} not installed.', f'{extra}.')
    if current:
        _check_current(current, runtime)
    else:
        _check_original(original, runtime)
    _check_mmrazor({**original, **runtime})
    _check_files({**current, **original, **runtime})
    _check_torchvision(runtime, extra)
    return 'current' if current else 'original'


def _names(found) -> str:
    return ', '.join(sorted(found))


def _check_current(family: dict[str, str], runtime: dict[str, str]) -> None:
    missing = set(CURRENT) - set(family)
    _require(not missing, f'{_names(missing)} not installed.', f'{USE_CURRENT}.')
    _require(
        _release(runtime['torch']) >= (2, 4),
        f'onedl-mmcv needs torch >= 2.4, found {runtime["torch"]}.',
        f"pip install 'torch>=2.4' torchvision, or {USE_ORIGINAL}.",
    )


def _check_original(family: dict[str, str], runtime: dict[str, str]) -> None:
    missing = [names[0] for names in ORIGINAL if not set(names) & set(family)]
    _require(not missing, f'{_names(missing)} not installed.', f'{USE_ORIGINAL}.')
    torch = runtime['torch']
    _require(
        (2, 1) <= _release(torch) < (2, 6),
        f'the original mmengine needs torch 2.1 to 2.5, found {torch} '
        '(its checkpoints do not load with torch >= 2.6).',
        f'{USE_ORIGINAL} pins torch; or pip uninstall -y {" ".join(family)}, '
        f'then {USE_CURRENT}.',
    )
    for name, below in (('numpy', 2), ('setuptools', 81)):
        found = _installed(name).get(name)
        _require(
            found is not None and _release(found) < (below,),
            f'the original family needs {name} < {below}, found {found}.',
            f"pip install '{name}<{below}'.",
        )


def _check_mmrazor(found: dict[str, str]) -> None:
    _require(
        _release(found['mmrazor']) >= (1, 0),
        f'mmrazor {found["mmrazor"]} is built on the mmcv 1.x interface.',
        "pip install 'mmrazor==1.0.0'.",
    )
    mmcv = found.get('mmcv-lite') or found.get('mmcv') or '2.1'
    _require(
        _release(mmcv) >= (2,),
        f'mmrazor 1.0 and mmpretrain need mmcv >= 2, found {mmcv}.',
        f'{USE_ORIGINAL}.',
    )
    mmcls = _installed('mmcls').get('mmcls')
    _require(
        mmcls is None or _release(mmcv) < (2, 1),
        f'mmcls {mmcls} is installed, the former mmpretrain; mmrazor imports it '
        'where it can, and it refuses mmcv >= 2.1.',
        'pip uninstall -y mmcls.',
    )


def _check_files(found: dict[str, str]) -> None:
    """Find modules whose files went with another distribution of the same name."""
    for name in found:
        module = name.removeprefix('onedl-').removesuffix('-lite')
        if not module.startswith('mm'):
            continue
        spec = importlib.util.find_spec(module)
        _require(
            spec is not None and spec.origin is not None,
            f'{name} is installed, but there is no module {module}; uninstalling '
            'another distribution of that module has removed its files.',
            f'pip install --force-reinstall --no-deps {name}=={found[name]}.',
        )


def _check_torchvision(runtime: dict[str, str], extra: str) -> None:
    """A torchvision for another torch (CPU and CUDA mixed, say) fails on import."""
    importlib.import_module('torch')
    try:
        importlib.import_module('torchvision')
    except (ImportError, OSError, RuntimeError) as error:
        raise StackError(
            f'cakd_mm cannot run: torchvision {runtime["torchvision"]} is not made '
            f'for torch {runtime["torch"]} ({error}). Remedy: pip uninstall -y torch '
            f'torchvision, then {extra}, which takes both from one index.'
        ) from error


def _quantisation_misfires(root: Path) -> bool:
    """Whether MMRazor's torch-1.13 guards would evaluate missing APIs.

    A module misfires if it branches on torch's version although an import it
    makes for that branch fails; read from its source, since a failed import
    would leave half of MMRazor's registries behind.
    """
    for name in _QUANTISATION:
        path = root / name
        if not path.exists():
            continue
        body = ast.parse(path.read_text(encoding='utf-8')).body
        guarded = any(
            isinstance(node, ast.If)
            and 'digit_version(torch.__version__)' in ast.unparse(node.test)
            for node in body
        )
        tries = [node for node in body if isinstance(node, ast.Try)]
        if guarded and not all(_imports_work(node.body) for node in tries):
            return True
    return False


def _imports_work(body: list[ast.stmt]) -> bool:
    try:
        exec(compile(ast.Module(body, []), '<mmrazor>', 'exec'), {})
    except ImportError:
        return False
    return True


def _accepts_mmcv(mmrazor_init: Path, mmcv_version: str) -> bool:
    """Whether the upper cap asserted in MMRazor's ``__init__`` admits mmcv."""
    for node in ast.parse(mmrazor_init.read_text(encoding='utf-8')).body:
        if not isinstance(node, ast.Assign):
            continue
        if ast.unparse(node.targets[0]) == 'mmcv_maximum_version':
            return _release(mmcv_version) <= _release(ast.literal_eval(node.value))
    return True


@contextmanager
def _attribute(module, name: str, value) -> Iterator[None]:
    """Set ``module.name`` for the duration of the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _below_113(digit_version: Callable) -> Callable:
    """Answer that torch is older than 1.13, MMRazor's placeholder branch."""
    import torch

    def masked(text: str):
        return digit_version('1.12.0' if text == torch.__version__ else text)

    return masked


def import_mmrazor() -> None:
    """Import MMRazor with all that it registers, whatever the torch version.

    Does nothing but import where nothing is broken, and leaves no patch
    behind: what is masked during the import is put back in every module that
    took a copy.
    """
    if 'mmrazor' not in sys.modules:
        _import_package()
    import mmrazor

    root = Path(mmrazor.__file__).parent
    if 'mmrazor.models' in sys.modules or not _quantisation_misfires(root):
        _register_all()
        return
    with _masked_digit_version(mmrazor):
        _register_all()


@contextmanager
def _masked_digit_version(mmrazor) -> Iterator[None]:
    """Mask ``mmrazor.digit_version``; put it back wherever it was copied to."""
    genuine = mmrazor.digit_version
    masked = _below_113(genuine)
    try:
        with _attribute(mmrazor, 'digit_version', masked):
            yield
    finally:
        for name, module in list(sys.modules.items()):
            copied = name.startswith('mmrazor.') and vars(module).get('digit_version')
            if copied is masked:
                module.digit_version = genuine


def _import_package() -> None:
    """Import the bare package, past the upper cap on mmcv it asserts."""
    import mmcv

    init = Path(importlib.util.find_spec('mmrazor').origin)
    if _accepts_mmcv(init, mmcv.__version__):
        importlib.import_module('mmrazor')
        return
    with _attribute(mmcv, '__version__', _LAST_MMCV_OF_MMRAZOR):
        importlib.import_module('mmrazor')


def _register_all() -> None:
    from mmrazor.utils import register_all_modules

    register_all_modules(init_default_scope=False)


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
    # They read configs of the old and of the new style.
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
      knows which one that was, so the path is made absolute here, if there is such a
      file.
    """

    @functools.wraps(genuine)
    def read(filename, *args, **kwargs):
        content, *rest = genuine(filename, *args, **kwargs)
        _as_in_file(content, Path(filename).expanduser().absolute().parent)
        return (content, *rest)

    read.genuine = genuine
    return read


def _as_in_file(node, folder: Path, is_net: bool = False) -> None:
    """Drop our scope, and anchor each net's ``cfg_path``, in what a folder's file says.

    The plain ``dict`` methods are used, because those of mmengine's dicts build what is
    imported lazily.
    """
    if isinstance(node, dict):
        if dict.get(node, '_scope_') == 'cakd_mm':
            dict.pop(node, '_scope_')
        path = dict.get(node, 'cfg_path')
        with suppress(OSError):  # of what is too long for a path, say
            if is_net and isinstance(path, str) and (folder / path).is_file():
                dict.__setitem__(node, 'cfg_path', str(folder / path))
        for name, value in list(dict.items(node)):
            _as_in_file(value, folder, name in ('architecture', 'teacher'))
    elif isinstance(node, (list, tuple)):
        for value in node:
            _as_in_file(value, folder, is_net)


def load_data_only(path: str):
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
    """Return what numpy's numbers and parsed options are made of."""
    import numpy as np

    kinds = {type(np.dtype(name)) for name in ('f4', 'f8', 'i4', 'i8', '?')}
    # As numpy 1 and numpy 2 spell it, whichever wrote the file.
    scalars = [_numpy_scalar(f'numpy.{core}.multiarray') for core in ('core', '_core')]
    return [argparse.Namespace, np.dtype, *scalars, *kinds]


def _numpy_scalar(module: str) -> Callable:
    """Return numpy's maker of numbers, under the name that files have for it.

    Torch takes pairs of function and name only from 2.6 on.
    """
    import numpy as np

    make = np.float64(0).__reduce__()[0]

    def scalar(*parts):
        return make(*parts)

    scalar.__module__, scalar.__qualname__ = module, 'scalar'
    return scalar
