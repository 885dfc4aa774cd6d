"""The one place that knows about version skew of the OpenMMLab stack.

Two families of distributions provide the modules ``mmengine``, ``mmcv`` and
``mmpretrain``: the maintained ``onedl-*`` packages (``cakd_mm[current]``) and
the original ones (``cakd_mm[original]``). MMRazor 1.0.0 works with either, but
its import fails on PyTorch >= 2; :func:`import_mmrazor` gets it through.
"""

import copy
import functools
import importlib
import importlib.util
import inspect
import io
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from functools import partial
from importlib.metadata import (
    PackageNotFoundError,
    packages_distributions,
    version,
)
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NoReturn

from packaging.requirements import Requirement
from packaging.version import Version

from .around_imports import Contexts, around_imports
from .deferred import deferred

CURRENT = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain')
# Each module of the original family has more than one distribution.
ORIGINAL = (('mmengine', 'mmengine-lite'), ('mmcv-lite', 'mmcv'), ('mmpretrain',))
# Both families need these. An install without dependencies lacks them.
RUNTIME = ('mmrazor', 'torch', 'torchvision', 'joblib', 'scipy', 'scikit-learn')
# Beyond these limits imports fail with messages that name no version. For instance,
# mmengine 0.10.7 needs `pkg_resources`, which setuptools 81 no longer has.
LIMITS = {
    'current': ('torch>=2.4',),
    'original': ('torch>=2.1,<2.6', 'numpy<2', 'setuptools<81'),
}


# A quarter of the time of our import. MMRazor draws, and predicts scores, with them.
DEFERRED = ('matplotlib.pyplot', 'scipy.stats', 'sklearn.tree')


class StackError(ImportError):
    """The installed distributions cannot work together."""


def _refuse(found: str, remedy: str) -> NoReturn:
    raise StackError(f'cakd_mm cannot run: {found} Remedy: {remedy}.')


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
    """Check the installed distributions and return ``'current'`` or ``'original'``.

    Raises:
        StackError: neither family, both, an incomplete one, or versions that
            cannot work together; the message names what to install.
    """
    current = _installed(*CURRENT)
    original = _installed(*(name for names in ORIGINAL for name in names))
    if current and original:
        problem = f'{", ".join(current)} and {", ".join(original)} are both installed'
        uninstall = f'pip uninstall -y {" ".join([*current, *original])}'
        _refuse(
            f"{problem}; they overwrite each other's files.",
            f'{uninstall}, then {_use("current")}',
        )
    if not (current or original):
        _refuse(
            'neither family of mmengine, mmcv and mmpretrain is installed.',
            f'{_use("current")} (or {_use("original")} for the original packages)',
        )
    family = 'current' if current else 'original'
    members = [(name,) for name in CURRENT] if current else [*ORIGINAL, ('setuptools',)]
    needed = [*members, *((name,) for name in RUNTIME)]
    found = _installed(*(name for names in needed for name in names))
    missing = sorted(names[0] for names in needed if not {*names} & {*found})
    if missing:
        _refuse(f'{", ".join(missing)} not installed.', _use(family))
    _check_versions(family, {**current, **original})
    _check_files(found)
    _check_torchvision(found, family)
    _check_transformers()
    return family


def _check_versions(family: str, members: dict[str, str]) -> None:
    """Compare the installed versions with :data:`LIMITS`."""
    [other] = LIMITS.keys() - {family}
    for limit in map(Requirement, LIMITS[family]):
        found = version(limit.name)
        # A build such as 2.4.0a0+nv24 has the interface of its base version, 2.4.0.
        if not limit.specifier.contains(Version(found).base_version):
            _refuse(
                f'the {family} family needs {limit}, found {found}.',
                f'{_use(family)}, which installs what fits; or change families: '
                f'pip uninstall -y {" ".join(members)}, then {_use(other)}',
            )


def _check_files(found: dict[str, str]) -> None:
    """Refuse modules whose files went when another distribution was uninstalled."""
    for name in found:
        module = name.removeprefix('onedl-').removesuffix('-lite')
        if not module.startswith('mm'):
            continue
        if not _is_importable(module):
            _refuse(
                f'{name} is installed, but there is no module {module}; uninstalling '
                'another distribution of that module has removed its files.',
                f'pip install --force-reinstall --no-deps {name}=={found[name]}',
            )


def _check_torchvision(found: dict[str, str], family: str) -> None:
    """Import torchvision, which fails if it was made for another torch."""
    importlib.import_module('torch')
    try:
        importlib.import_module('torchvision')
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # It is of a file, a folder for compiled code say, and no build.
        _refuse(
            f'torchvision {found["torchvision"]} is not made for torch '
            f'{found["torch"]} ({error}).',
            f'pip uninstall -y torch torchvision, then {_use(family)}, which takes '
            'both from one index',
        )


def _check_transformers() -> None:
    """Take what mmengine takes of transformers where that is installed.

    mmengine goes on without it after an ImportError, and ends with any other error.
    """
    try:
        importlib.import_module('transformers').Adafactor  # noqa: B018
    except (ImportError, AttributeError):
        return
    except Exception as error:  # its modules raise what the import of others raises
        _refuse(
            f'transformers cannot be imported ({error}).',
            'pip install -U transformers, or pip uninstall -y transformers if no '
            'config names a net of it',
        )


# What the stack says when it is imported, of parts that nobody has asked for. The first
# is mmcv's, of its operations; the second torch's, of what mmengine imports; the third
# mmdet's, of a metric of its own.
IMPORT_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    ('Fail to import ``MultiScaleDeformableAttention`` from', UserWarning),
    ('`TorchScript` support for functional optimizers is', DeprecationWarning),
    ('faster_coco_eval is not installed, metrics will not', UserWarning),
)
# What it prints: each project of a client for data sets, and mmengine of every file.
PRINTED = ('Could not import OneDL', 'Loads checkpoint by local backend from path: ')


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Leave out what the stack says of itself while it is imported.

    Nothing else is left out, and all other filters of warnings remain, those too that
    an imported module sets.
    """
    before = [*warnings.filters]
    with warnings.catch_warnings(), without_printed():
        for text, category in IMPORT_WARNINGS:
            warnings.filterwarnings('ignore', text, category)
        own = warnings.filters[: len(IMPORT_WARNINGS)]
        # torch shows its warning whatever the filters are.
        module: Any = warnings
        show = module.showwarning

        def show_others(message: Any, category: type[Warning], *place: Any) -> None:
            is_known = (
                known is category and str(message).startswith(text)
                for text, known in IMPORT_WARNINGS
            )
            if not any(is_known):
                show(message, category, *place)

        module.showwarning = show_others
        yield
        added = [x for x in warnings.filters if x not in (*own, *before)]
    filters: Any = warnings.filters  # a list, which typeshed takes for a sequence
    filters[:0] = added


@contextmanager
def without_printed() -> Iterator[None]:
    """Leave out the lines of :data:`PRINTED`, and print all others afterwards."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    finally:
        lines = said.getvalue().splitlines(keepends=True)
        print(*(x for x in lines if not x.startswith(PRINTED)), sep='', end='')


def import_mmrazor() -> None:
    """Import MMRazor with all that it registers, whatever the torch version.

    MMRazor 1.0.0, its last release, asserts mmcv <= 2.1.0. On torch >= 1.13 it imports
    private quantisation APIs that only torch 1.13 had. Both versions are masked during
    the import, and only then, because distillation uses no quantisation. What of
    MMRazor's own imports takes long waits for its first use.
    """
    masked = version('mmrazor') == '1.0.0'
    limit = sys.getrecursionlimit()
    slow = deferred(*DEFERRED) if masked else nullcontext()
    with _masked_versions() if masked else nullcontext(), slow:
        _leave_out_multimodal()
        from mmrazor.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    # MMRazor's tracer raises the limit to a million, with which an endless recursion,
    # or deeply nested json, ends in a segmentation fault instead of an error.
    sys.setrecursionlimit(limit)


# Projects that are optional, and our extras that install them with the current family.
OPTIONAL = {'mmdet': 'det', 'mmseg': 'seg'}


def let_optional_projects_be_found() -> None:
    """Let mmengine find mmdet and mmseg where they are installed.

    mmengine takes the name of a module here, as it does that of a distribution. Where a
    project is missing, mmengine says what to install by that name, and the distribution
    of the original family has another.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    for name, extra in OPTIONAL.items():
        if _is_importable(name):
            MODULE2PACKAGE[name] = f'{name}.version'
        elif _installed(*CURRENT):
            MODULE2PACKAGE[name] = f'cakd_mm[{extra}]'


def prepare_optional_projects() -> None:
    """Let mmdet and mmseg be imported later as what we import is.

    Their known warnings are left out, and no file that they read runs code. mmdet
    imports all of mmcv's operations, which most builds of mmcv lack today; see
    :mod:`cakd_mm.plain_operations`.
    """
    around: Contexts = {f'{x}.models': _with_operations for x in OPTIONAL}
    around.update({f'{x}.datasets': _quietly for x in OPTIONAL})
    around['mmdet.evaluation'] = _quietly
    if _is_importable('mmcv.ops') and not importlib.util.find_spec('mmcv._ext'):
        from .plain_operations import PlainOperations, refusing_layers

        sys.modules['mmcv._ext'] = PlainOperations()
        around['mmcv.ops'] = refusing_layers
    around_imports({**around, **_guards()})


def _is_importable(name: str) -> bool:
    """Return whether there is a module; an empty folder of that name is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


@contextmanager
def _quietly(_: ModuleType) -> Iterator[None]:
    with quiet_imports():
        yield


@contextmanager
def _with_operations(module: ModuleType) -> Iterator[None]:
    """Import all models of mmdet or mmseg, and say it if they need another mmcv."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not (error.name or '').startswith(('mmcv.ops', 'mmcv._ext')):
            raise
        project = module.__name__.partition('.')[0]
        members = _installed(*CURRENT, *(x for names in ORIGINAL for x in names))
        mmcv = next((f'{k} {v}' for k, v in members.items() if 'mmcv' in k), 'mmcv')
        others = [*packages_distributions().get(project, [project]), *members]
        current = f'current,{OPTIONAL[project]}'
        _refuse(
            f'{project} imports operations of mmcv, and {mmcv} has none.',
            f'pip uninstall -y {" ".join(others)}, then {_use(current)}; or an mmcv '
            'of the same version, built with its operations',
        )
    if module.__name__ == 'mmdet.models':
        _register_extra_norm()


def _register_extra_norm() -> None:
    """Let mmpretrain give mmdet its layer, for which mmdet was hidden at first."""
    name = 'mmpretrain.models.utils.res_layer_extra_norm'
    layer: Any = importlib.import_module(name)
    if layer.ResLayerExtraNorm is None:
        importlib.reload(layer)


@contextmanager
def hidden_modules(*names: str) -> Iterator[None]:
    """Let imports of modules fail as if they were not installed.

    mmpretrain and MMRazor import all models of mmdet and mmseg where they can, for a
    layer of one net and for the tracing of pruned nets. That would take as long as all
    our other imports. What is imported already stays: a program that prunes detectors
    with MMRazor imports ``mmdet.models`` before ``cakd_mm``.
    """
    modules: MutableMapping[str, Any] = sys.modules
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


# Its nets of images and text import what later versions of transformers lack.
MULTIMODAL = Requirement('transformers<5')


def _leave_out_multimodal() -> None:
    """Let mmpretrain do without its nets of images and text where they are broken.

    With pycocotools and any transformers >= 4.28 it imports them, which ends in a
    TypeError for a transformers that is too new, or that takes PyTorch for missing. It
    asks its own module for that, which is imported here before mmpretrain is.
    """
    name = 'mmpretrain.utils.dependency'
    found = _installed('transformers', 'pycocotools')
    if len(found) < 2 or 'mmpretrain.models' in sys.modules or _serves_multimodal():
        return
    module: Any = sys.modules.get(name)
    if module is None:
        package = importlib.util.find_spec('mmpretrain')
        [folder] = (package and package.submodule_search_locations) or ['']
        file = Path(folder, 'utils', 'dependency.py')
        spec: Any = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    module.WITH_MULTIMODAL = False
    module.register_multimodal_placeholder = _register_refusals
    sys.modules[name] = module


def _serves_multimodal() -> bool:
    try:
        transformers: Any = importlib.import_module('transformers')
        is_old = MULTIMODAL.specifier.contains(transformers.__version__)
        return is_old and transformers.is_torch_available()
    except (ImportError, AttributeError):  # a part of it is missing
        return False


def _register_refusals(names: list[str], registry: Any) -> None:
    """Register a function in the place of each net, which says what to install."""

    def refuse(name: str, *args: Any, **kwargs: Any) -> NoReturn:
        remedy = f"pip install '{MULTIMODAL}' with a PyTorch that it takes"
        raise ImportError(f'{name} of mmpretrain needs {MULTIMODAL}: {remedy}.')

    for name in names:
        registry.register_module(name=name, module=partial(refuse, name))


@contextmanager
def _masked_versions() -> Iterator[None]:
    """Import the bare MMRazor past its assertion, and let it take torch for 1.12.

    Afterwards every module that copied the masked function gets the genuine one,
    because MMRazor's tracer asks for the version of torch again when it runs. The
    module mmcls is hidden, because MMRazor imports this former name of mmpretrain
    where it can, and mmcls refuses mmcv >= 2.1.
    """
    import mmcv
    import torch

    mmcv_version, mmcv.__version__ = mmcv.__version__, '2.1.0'
    try:
        mmrazor: Any = importlib.import_module('mmrazor')
    finally:
        mmcv.__version__ = mmcv_version
    modules: MutableMapping[str, Any] = sys.modules
    genuine = mmrazor.digit_version

    def masked(text: str) -> Any:
        return genuine('1.12.0' if text == torch.__version__ else text)

    mmrazor.digit_version = masked
    try:
        with hidden_modules('mmcls'):
            yield
    finally:
        for name, module in list(modules.items()):
            copy = name.startswith('mmrazor') and vars(module).get('digit_version')
            if copy is masked:
                module.digit_version = genuine


def register_package() -> None:
    """Let mmengine read ``cakd_mm::...`` wherever it reads a config's name.

    The name that mmengine gets here is that of a module, for which it takes the folder
    of the module. By the distribution's name the original mmengine misses an editable
    install, and either mmengine may find another copy than the imported one.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.setdefault('cakd_mm', 'cakd_mm.version')
    # The first function reads configs of the old style, the second of the new style.
    for name in ('_file2dict', '_parse_lazy_import'):
        read = getattr(Config, name)
        if not hasattr(read, 'genuine'):
            setattr(Config, name, staticmethod(_with_own_bases(read)))


def write_types_by_name() -> None:
    """Let mmengine write a config whose types are classes so that it can be read back.

    The original mmengine cannot write a class at all, the current one writes it without
    quotes; see :mod:`cakd_mm.utils.type_names`.
    """
    from .utils.type_names import as_written

    config: Any = importlib.import_module('mmengine.config.config')
    config._lazy2string = as_written


def lay_out_texts_once() -> None:
    """Let mmengine lay out the text of a config once, while the config is the same.

    It asks for the text six times as a run begins, and again for each checkpoint. The
    layout takes 0.1 s for a short config, and 2 s for the lists of a pyramid's levels.
    """
    from mmengine.config import Config

    genuine: Any = Config.pretty_text
    texts: dict[tuple, str] = {}

    def pretty_text(config: Any) -> str:
        # A dict of the config names the classes that it imports with their modules.
        written = repr(config.to_dict()), config._format_python_code
        if written not in texts:
            text = genuine.fget(config)
            texts.clear()  # One text is kept, because a run has one config.
            texts[written] = text
        return texts[written]

    Config.pretty_text = property(pretty_text, doc=genuine.__doc__)


def _with_own_bases(genuine: Callable) -> Callable:
    """Return a reader of configs that takes a base by name as the file it names.

    mmengine reads in the temporary folder, where a kill would leave copies; ours are
    removed later. Two things are changed in what mmengine has read:

    - mmengine makes the package of a base ``package::...`` the scope of what is built
      from it. That scope is dropped, because ``cakd_mm`` has no registry of its own:
      our configs are written for the scope ``mmpretrain``.
    - A relative ``cfg_path`` of a net starts at the folder of the file that says it.
      It is made absolute, because later nobody knows which file that was.
    """
    # Here, because `utils` may be imported only once the stack has been checked.
    from .utils.temporary import swept_temporary_folder

    @functools.wraps(genuine)
    def read(filename: str, *args: Any, **kwargs: Any) -> tuple:
        with swept_temporary_folder():
            content, *rest = genuine(filename, *args, **kwargs)
        _as_in_file(content, Path(filename).expanduser().absolute().parent)
        return (content, *rest)

    read.genuine = genuine  # type: ignore[attr-defined]  # a mark, not a part of it
    return read


def _as_in_file(node: Any, folder: Path, is_net: bool = False) -> None:
    """Drop our scope, and make the ``cfg_path`` of a net absolute if it is a file.

    The plain methods of ``dict`` are used, because those of mmengine's dicts build what
    is imported lazily.
    """
    if isinstance(node, dict):
        if dict.get(node, '_scope_') == 'cakd_mm':
            dict.pop(node, '_scope_')
        path = dict.get(node, 'cfg_path')
        with suppress(OSError):  # A name may be too long for a path.
            if is_net and isinstance(path, str) and (folder / path).is_file():
                dict.__setitem__(node, 'cfg_path', str(folder / path))
        for name, value in list(dict.items(node)):
            # Of several teachers each is an entry with a net.
            _as_in_file(
                value,
                folder,
                name in ('architecture', 'teacher') or (is_net and name == 'net'),
            )
    elif isinstance(node, (list, tuple)):
        for value in node:
            _as_in_file(value, folder, is_net)


# What of mmengine and mmpretrain reads a file with the function `load` of torch.
READERS = (
    'mmengine.runner.checkpoint',
    'mmpretrain.apis.multimodal_retrieval',
    'mmpretrain.engine.hooks.swav_hook',
    'mmpretrain.models.retrievers.image2image',
    'mmpretrain.models.utils.vector_quantizer',
)


def guard_readers() -> None:
    """Let no file that mmengine or mmpretrain reads run code, and never run pip.

    Checkpoints, from wherever they come, pickled annotations, CIFAR's pickles and
    configs in YAML are read as data; see :mod:`cakd_mm.utils.data_pickle`.
    """
    import torch
    import yaml
    from mmengine.fileio.handlers import pickle_handler, yaml_handler
    from mmengine.utils import package_utils

    from .utils import checkpoint, data_pickle

    guarded = _changed(torch, load=checkpoint.load_for_mmengine)
    for name in READERS:
        vars(importlib.import_module(name))['torch'] = guarded
    readers: Any = importlib.import_module('mmengine.runner.checkpoint')
    readers.load_url = checkpoint.load_url
    # The current mmengine loads through this function, which would try again unguarded.
    readers._safe_torch_load = checkpoint.load_for_mmengine

    def load_pickle(handler: Any, file: BinaryIO, **options: Any) -> Any:
        return data_pickle.load(file, **options)

    annotations: Any = importlib.import_module('mmengine.dataset.base_dataset')
    annotations.load = data_pickle.load_annotations
    pickle_handler.PickleHandler.load_from_fileobj = load_pickle
    cifar: Any = importlib.import_module('mmpretrain.datasets.cifar')
    cifar.pickle = data_pickle
    yaml_handler.Loader = getattr(yaml, 'CFullLoader', yaml.FullLoader)
    package_utils.call_command = _refuse_to_install


def _guards() -> Contexts:
    """Return what lets no file that mmdet or mmseg reads run code either.

    Their checkpoints, configs and pickled annotations are read by mmengine. What
    remains is a class hierarchy of OpenImages, an array, and arrays that mmseg's
    ``LoadBiomedicalData`` may read of a pickle.
    """
    import numpy as np

    from .utils import data_pickle

    arrays: Any = _changed(np, load=lambda file, **_: np.load(file))
    return {
        'mmdet.datasets.openimages': partial(_using, np=arrays),
        'mmseg.utils.io': partial(_using, pickle=data_pickle),
    }


@contextmanager
def _using(module: ModuleType, **others: Any) -> Iterator[None]:
    """Let a module, once it is imported, use others than it has imported."""
    yield
    vars(module).update(others)


def _changed(module: ModuleType, **parts: Any) -> ModuleType:
    """Return what has everything of a module, but some parts of its own."""
    changed: Any = ModuleType(module.__name__)
    changed.__getattr__ = partial(getattr, module)
    vars(changed).update(parts)
    return changed


def let_nets_of_others_nest() -> None:
    """Let a net of timm or of Hugging Face be a part of another model, and be resumed.

    mmpretrain takes its own prefix out of the names of their weights in a new dict.
    PyTorch takes such a dict from the outermost module alone. A student would be saved
    by one name and looked for by another, and mmengine resumes it without a word.
    """
    from mmpretrain.models import HuggingFaceClassifier, TimmClassifier

    kinds: tuple[Any, ...] = (TimmClassifier, HuggingFaceClassifier)
    for kind in kinds:
        kind._remove_state_dict_prefix = staticmethod(_without_model)
        kind._add_state_dict_prefix = staticmethod(_with_model)
        kind.__init__ = _keeping_pretrained(kind.__init__)


def _keeping_pretrained(genuine: Callable) -> Callable:
    """Return the maker of a net whose weights, where it has read any, stay.

    mmengine initialises a model by the methods ``init_weights`` of its parts. Nets of
    timm and of Hugging Face have one, which draws new weights.
    """

    @functools.wraps(genuine)
    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        genuine(self, *args, **kwargs)
        if any(kwargs.get(name) for name in ('pretrained', 'checkpoint_path')):
            self.model.is_init = True

    return make


def _without_model(module: Any, weights: dict, prefix: str, *_: Any) -> None:
    """Take ``model.`` out of the names of a net's weights, in place and in order."""
    _rename(weights, f'{prefix}model.', prefix)


def _with_model(weights: dict, prefix: str, *_: Any) -> None:
    _rename(weights, prefix, f'{prefix}model.')


def _rename(weights: dict, before: str, after: str) -> None:
    for name in list(weights):
        value = weights.pop(name)
        is_own = name.startswith(before)
        weights[after + name.removeprefix(before) if is_own else name] = value


def _refuse_to_install(command: list[str]) -> NoReturn:
    """Say which package is missing, in the place of installing it."""
    from mmengine.config.utils import MODULE2PACKAGE

    package = command[-1]
    # A module may be in a distribution of another name.
    name = next((k for k, v in MODULE2PACKAGE.items() if v == package), package)
    wanted = shlex.quote(package)
    raise ModuleNotFoundError(f'{name} is not installed; type pip install {wanted}')


# The first release in which `fully_shard` can leave some parameters whole.
SHARDING_TORCH = '2.7'


def find_fully_shard() -> Callable | None:
    """Return torch's ``fully_shard`` (FSDP2); None before :data:`SHARDING_TORCH`."""
    fsdp: Any = importlib.import_module('torch.distributed.fsdp')
    function = getattr(fsdp, 'fully_shard', None)
    takes = function and inspect.signature(function).parameters
    return function if takes and 'ignored_params' in takes else None


def checkpoint_whole_modules() -> None:
    """Let ``activation_checkpointing`` of a config train what it names as without it.

    mmengine's wrapper uses PyTorch's older way. That gives a part no gradient whose
    inputs need none, such as a backbone, which sees images; what is recorded within has
    none either; and statistics of normalisation move twice in a step.
    """
    checkpointing: Any = importlib.import_module(
        'mmengine.runner.activation_checkpointing'
    )
    checkpointing.wrap_forward = _CheckpointedForward


class _CheckpointedForward:
    """A module's ``forward`` that is computed again for its gradients.

    It is an object, because the copy of one in a copied module belongs to that module.
    """

    def __init__(self, forward: Callable) -> None:
        functools.update_wrapper(self, forward)
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch.utils.checkpoint import checkpoint

        own: Any = dict(use_reentrant=False, context_fn=self._contexts)
        return checkpoint(self.forward, *args, **own, **kwargs)

    def _contexts(self) -> tuple:
        return nullcontext(), _statistics_kept(getattr(self.forward, '__self__', None))


@contextmanager
def _statistics_kept(module: Any) -> Iterator[None]:
    """Let layers of normalisation compute as in training, and note nothing."""
    before: dict[Any, tuple[float | None, Any]] = {
        layer: (layer.momentum, layer.num_batches_tracked)
        for layer in (() if module is None else module.modules())
        if getattr(layer, 'track_running_stats', False) and layer.training
    }
    for layer, (_, count) in before.items():
        # Without statistics the layer would save other tensors than before.
        layer.momentum = 0.0
        layer.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for layer, (momentum, count) in before.items():
            layer.momentum, layer.num_batches_tracked = momentum, count


def without_workers(loader: Any) -> Any:
    """Return a loader like this that draws nothing until its first batch is asked for.

    mmengine 0.10.7 iterates over the loader of a run by iterations before a checkpoint
    is read, and workers would draw from the sampler at once.
    """
    idle = copy.copy(loader)
    idle.num_workers = idle.timeout = 0
    return idle


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute float32 on a GPU with all of its bits.

    Since PyTorch 2.9 there are two ways to say so, and the first cannot be read where
    the second says something else. Both are written.
    """
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    parts: tuple[Any, ...] = ()
    if hasattr(cudnn, 'conv'):
        # The last is of a CPU, and `set_float32_matmul_precision` writes it as well.
        host: Any = torch.backends.mkldnn
        parts = cudnn.conv, cudnn.rnn, matmul, host.matmul
    restore: list[Callable[[], None]] = []
    with suppress(RuntimeError):
        restore.append(partial(setattr, cudnn, 'allow_tf32', cudnn.allow_tf32))
    with suppress(RuntimeError):
        precision = torch.get_float32_matmul_precision()
        restore.append(partial(torch.set_float32_matmul_precision, precision))
    for part in parts:
        own = part.fp32_precision
        restore.append(partial(setattr, part, 'fp32_precision', own))
    cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision('highest')
    for part in parts:
        part.fp32_precision = 'ieee'
    try:
        yield
    finally:
        for step in restore:
            step()


def autocast_dtype(device_type: str) -> Any:
    """Return what autocast computes in on a kind of device, None where it is off."""
    import torch

    if hasattr(torch, 'get_autocast_dtype'):
        active = torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if active else None
    # Older versions know two kinds of devices.
    if device_type == 'cpu':
        active = torch.is_autocast_cpu_enabled()
        return torch.get_autocast_cpu_dtype() if active else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def let_graphs_be_kept() -> None:
    """Let gradients go through what is compiled from now on more than once.

    Otherwise PyTorch writes into what a compiled function has saved for its gradients,
    and refuses ``retain_graph=True``. PyTorch 2.4 lacks the setting, and writes into
    nothing.
    """
    import torch._functorch.config

    if hasattr(torch._functorch.config, 'donated_buffer'):
        torch._functorch.config.donated_buffer = False


# From which release on torch writes ONNX from what it has exported. The one before
# translates no layer of batch normalisation.
ONNX_FROM_PROGRAM = '2.6'
# The first release whose `torch.export` takes all that is written here.
EXPORT_TORCH = '2.4'
# Of images at once. With no limit, torch 2.5 finds that not every number is allowed.
MOST_IMAGES = 2**31 - 1


def as_program(net: Any, images: Any, batch: str | None) -> Any:
    """Return a net as ``torch.export`` has it, an ``ExportedProgram``.

    Args:
        net (nn.Module): Its ``forward`` takes ``images``.
        images (Tensor): At least two, because torch takes one for a constant.
        batch (str, optional): The name of a number of images that is left open. None
            leaves nothing open.

    Raises:
        RuntimeError: torch is too old.
        Exception: torch's own, of a net that it cannot export.
    """
    import torch

    if Version(Version(torch.__version__).base_version) < Version(EXPORT_TORCH):
        text = f'torch.export needs torch >= {EXPORT_TORCH}, found {torch.__version__}'
        raise RuntimeError(text)
    open_sizes: dict[int, Any] = {}
    if batch is not None:
        open_sizes[0] = torch.export.Dim(batch, min=1, max=MOST_IMAGES)
    first: Exception | None = None
    # Before torch 2.6 each way exports nets that the other one does not.
    for strict in (False, True):
        try:
            with quiet_export(), _open_batches(net):
                return torch.export.export(
                    net,
                    (images,),
                    dynamic_shapes=dict(images=open_sizes),
                    strict=strict,
                )
        except Exception as error:  # torch's are of many kinds
            first = first or error
    raise first or RuntimeError('unreachable')


def as_onnx(
    net: Any,
    images: Any,
    program: Callable[[], Any],
    names: tuple[str, str],
    batch: str | None,
    opset: int | None,
) -> Any:
    """Return a net as an ``onnx.ModelProto``.

    It is made of the program or, where that cannot be, by torch's older exporter.

    Args:
        net (nn.Module): From images to one tensor.
        images (Tensor): An example.
        program (Callable): Returns :func:`as_program` of it.
        names (tuple[str, str]): Of the input and the output.
        batch (str, optional): The name of the open number of images. None leaves
            nothing open.
        opset (int, optional): The version of the operators; None is torch's choice.

    Raises:
        Exception: torch's own, of a net that it cannot export.
    """
    import onnx
    import torch

    own: dict[str, Any] = dict(opset_version=opset, verbose=False)
    own.update(input_names=[names[0]], output_names=[names[1]])
    first: Exception | None = None
    if Version(torch.__version__) >= Version(ONNX_FROM_PROGRAM):
        try:
            with quiet_export():
                made = torch.onnx.export(program(), (images,), dynamo=True, **own)
            return made.model_proto  # type: ignore[union-attr]
        except Exception as error:  # torch's are of many kinds
            first = error
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        own['dynamo'] = False
    if batch is not None:
        own['dynamic_axes'] = {name: {0: batch} for name in names}
    file = io.BytesIO()
    try:
        with quiet_export(), _open_batches(net):
            torch.onnx.export(net, (images,), file, **own)  # type: ignore[arg-type]
    except Exception as error:
        raise (first or error) from error
    return onnx.load_from_string(file.getvalue())


@contextmanager
def quiet_export() -> Iterator[None]:
    """Leave out what the exporters say of themselves; what fails is raised anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


@contextmanager
def _open_batches(net: Any) -> Iterator[None]:
    """Let windows of attention be put together for any number of images.

    mmpretrain computes that number as a Python integer, which an export would keep. Its
    value is what the other sizes leave.
    """
    parts = [x for x in net.modules() if hasattr(x, 'window_reverse')]
    for part in parts:
        part.window_reverse = _put_together
    try:
        yield
    finally:
        for part in parts:
            del part.window_reverse


def _put_together(windows: Any, height: int, width: int, size: int) -> Any:
    """Return maps, (N, H, W, C), of their windows, (N * windows, size, size, C)."""
    rows, columns = height // size, width // size
    grid = windows.view(-1, rows, columns, size, size, windows.shape[-1])
    return grid.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])
