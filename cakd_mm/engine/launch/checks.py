"""What is looked at before anything is built: data and arguments."""

from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper
from mmengine.registry import (
    DATASETS,
    HOOKS,
    LOOPS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    DefaultScope,
    Registry,
)
from mmengine.runner import Runner, get_priority
from mmpretrain.datasets import CIFAR10, CIFAR100, MNIST
from mmpretrain.datasets.utils import check_integrity
from torch.utils.data import DataLoader, IterableDataset

from ...utils.agreement import exchange
from ...utils.arguments import check_part, class_of, require_part
from ...utils.building import build_part
from ...utils.errors import describe
from ...utils.schema import find_fault
from .runner_keys import check_runner_keys

# Whose arguments are checked, and what mmengine reads beside them, by registry.
CHECKED = ('cakd_mm.', 'mmengine.', 'mmpretrain.datasets.', 'torch.optim.')
SHAPES: dict[str, Any] = {
    'default_hooks': dict[str, Any] | None,
    'custom_hooks': list | None,
    'optim_wrapper': dict | OptimWrapper | None,
}
# What the Runner adds: a type where there is none, and arguments.
DEFAULT_TYPES = dict(
    val_cfg='ValLoop',
    test_cfg='TestLoop',
    optim_wrapper='OptimWrapper',
    data_preprocessor='BatchPreprocessor',
)
SUPPLIED = {
    LOOPS.name: ('runner', 'dataloader', 'evaluator'),
    OPTIMIZERS.name: ('params',),
    OPTIM_WRAPPERS.name: ('optimizer',),
}
READ_BESIDE = {
    HOOKS.name: ('priority',),
    OPTIM_WRAPPERS.name: ('constructor', 'paramwise_cfg'),
}
# What mmpretrain downloads when it is not there.
CIFAR = (CIFAR10, CIFAR100)


def check_data(cfg: Config, parts: tuple[str, ...], by_option: bool = True) -> None:
    """Check that the data of the named dataloaders is there before building.

    What mmpretrain would download has to be there, or its server be reached.

    Args:
        cfg (Config): The config.
        parts (tuple[str]): ``'train'``, ``'val'``, ``'test'``.
        by_option (bool): Whether the tool has ``--cfg-options``, for the error.
            Defaults to True.

    Raises:
        FileNotFoundError: naming the config key and the folder.
    """
    for part in parts:
        loader = f'{part}_dataloader'
        for key, dataset in datasets(loader, cfg.get(loader)):
            root = dataset.get('data_root')
            if not root or not isinstance(root, str) or '://' in root:
                continue
            scope = cfg.get('default_scope', 'mmpretrain')
            with DefaultScope.overwrite_default_scope(scope):
                kind = class_of(dataset, DATASETS, key)
            if kind in CIFAR:
                problem = _cifar_problem(kind, dataset)
            elif kind is MNIST or Path(root).is_dir():
                problem = None
            else:
                problem = f'There is no such folder (looked from {Path.cwd()}).'
            if problem:
                option = f', or pass --cfg-options {key}.data_root=/path/to/data'
                remedy = option if by_option else ''
                raise FileNotFoundError(
                    describe(
                        f'{key}.data_root',
                        root,
                        problem,
                        f'Link the data there{remedy}.',
                    )
                )


def _cifar_problem(kind: type[CIFAR10], dataset: dict) -> str | None:
    """Return what keeps mmpretrain from finding the data and from downloading it."""
    prefix = dataset.get('data_prefix', '')
    data = kind(dataset['data_root'], data_prefix=prefix, lazy_init=True)
    if data._check_integrity():
        return None
    problem = f'It holds no whole {data.base_folder}'
    if not dataset.get('download', True):
        return f'{problem}, and download=False.'
    archive = Path(data.data_prefix['root'], data.filename)
    if check_integrity(str(archive), data.tgz_md5):
        return None
    try:
        urlopen(data.url, timeout=10).close()
    except (OSError, HTTPException) as error:
        return f'{problem}, and {data.url} cannot be reached ({error}).'
    return None


def datasets(key: str, node: Any) -> Iterator[tuple[str, dict]]:
    """Yield (config key, config) of a loader and of all datasets below it."""
    if not isinstance(node, dict):
        return
    yield key, node
    yield from datasets(f'{key}.dataset', node.get('dataset'))
    for index, part in enumerate(node.get('datasets') or []):
        yield from datasets(f'{key}.datasets.{index}', part)


def check_own_arguments(cfg: Config) -> None:
    """Refuse wrong arguments of our classes, of data sets and of optimizers.

    Others have their own errors.

    Raises:
        KeyError, TypeError, ValueError: naming the config key, its value and what to
            write instead.
    """
    for key, hint in SHAPES.items():
        fault = find_fault(cfg.get(key), hint, key)
        if fault is not None:
            raise fault.error()
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        check_runner_keys(cfg)
        for registry, key, part in _parts(cfg):
            default = DEFAULT_TYPES.get(key, '')
            if key == 'train_cfg' and isinstance(part, Mapping) and 'by_epoch' in part:
                continue  # which says the loop to mmengine
            require_part(part, key, default, built=True)
            if default and isinstance(part, Mapping):
                part = {'type': default, **part}
            check_part(
                part,
                registry,
                key,
                only=CHECKED,
                beside=READ_BESIDE.get(registry.name, ()),
                supplied=SUPPLIED.get(registry.name, ()),
            )
            if registry is HOOKS and isinstance(part, Mapping):
                _try_hook(part, key)


def _parts(cfg: Config) -> Iterator[tuple[Registry, str, Any]]:
    """Yield registry, config key and config of what is built from a config."""
    hooks = cfg.get('default_hooks') or {}
    wrapper = cfg.get('optim_wrapper') or {}
    optional: list[tuple[Registry, str, Any]] = [
        *((HOOKS, f'default_hooks.{name}', hook) for name, hook in hooks.items()),
        *(
            (LOOPS, loop, cfg.get(loop))
            for loop in ('train_cfg', 'val_cfg', 'test_cfg')
        ),
        (OPTIM_WRAPPERS, 'optim_wrapper', wrapper or None),
        (MODELS, 'data_preprocessor', cfg.get('data_preprocessor')),
    ]
    if isinstance(wrapper, Mapping):
        optional.append(
            (OPTIMIZERS, 'optim_wrapper.optimizer', wrapper.get('optimizer'))
        )
    yield from (part for part in optional if part[-1] is not None)
    if 'model' in cfg:  # which tools for data do without
        yield MODELS, 'model', cfg.get('model')
    for index, hook in enumerate(cfg.get('custom_hooks') or []):
        yield HOOKS, f'custom_hooks.{index}', hook
    for stage in ('train', 'val', 'test'):
        loader = f'{stage}_dataloader'
        node = cfg.get(loader)
        if isinstance(node, Mapping):
            yield DATASETS, f'{loader}.dataset', node.get('dataset')
            # The first two are the loader and its dataset.
            for key, dataset in list(datasets(loader, node))[2:]:
                yield DATASETS, key, dataset


def _try_hook(hook: Mapping, key: str) -> None:
    """Build a hook of ours for nothing, because only here is its key known."""
    kind = class_of(hook, HOOKS, key)
    try:
        get_priority(hook.get('priority', 'NORMAL'))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = 'There is no such priority.'
        remedy = "Write 'NORMAL', another name of mmengine's, or 0 (first) to 100."
        place, value = f'{key}.priority', hook['priority']
        raise ValueError(describe(place, value, problem, remedy)) from error
    if kind.__module__.startswith(__name__.partition('.')[0]):
        given = {name: value for name, value in hook.items() if name != 'priority'}
        build_part(given, HOOKS, key)


def check_steps(runner: Runner) -> None:
    """Refuse a training without a step, a validation of nothing, and uneven ranks.

    Ranks with unequal numbers of batches would wait for one another for ever. The
    loaders are built for that.

    Raises:
        ValueError: naming the loader, and how many images and batches it has.
    """
    loaders = {
        part: loop.dataloader
        for part, loop in (('train', runner.train_loop), ('val', runner.val_loop))
        # A set without a length gives as many batches as it likes.
        if loop is not None and not isinstance(loop.dataloader.dataset, IterableDataset)
    }
    lengths = exchange({part: len(loader) for part, loader in loaders.items()})
    for part, loader in loaders.items():
        key, counts = f'{part}_dataloader', [x[part] for x in lengths if part in x]
        if 0 in counts:
            problem = f'It gives no batch of the {_contents(loader)}.'
            remedy = 'Give it more images, or lower its batch_size.'
            raise ValueError(describe(key, _batches(counts), problem, remedy))
        if part == 'train' and len(set(counts)) > 1:
            problem = 'The ranks have unequal numbers, so some would wait for ever.'
            remedy = "Write sampler=dict(type='DefaultSampler'), and give every rank "
            remedy += 'the same data.'
            raise ValueError(describe(key, _batches(counts), problem, remedy))


def _batches(counts: list[int]) -> str:
    return f'{" and ".join(map(str, counts))} batches'


def _contents(loader: DataLoader) -> str:
    """Return how many images a loader has, and how it makes batches of them."""
    sampler: Any = loader.batch_sampler
    text = f'{len(sampler.sampler)} images'
    if getattr(sampler, 'drop_last', False):
        text += f' (batch_size={sampler.batch_size}, drop_last=True)'
    return text


def mention_batch(runner: Runner) -> None:
    """Warn of a learning rate that was written for a batch of quite another size."""
    scale = runner.cfg.get('auto_scale_lr') or {}
    base = scale.get('base_batch_size')
    loader = runner.cfg.train_dataloader
    own = get_world_size() * (loader.get('batch_size') or 0)
    own *= runner.cfg.optim_wrapper.get('accumulative_counts', 1)
    if base and own and not scale.get('enable') and not 1 / 4 < own / base < 4:
        runner.logger.warning(
            f'The learning rate is written for batches of {base} images '
            f'(auto_scale_lr.base_batch_size), and this run has {own}: --auto-scale-lr '
            'scales it, or write optim_wrapper.optimizer.lr and base_batch_size.'
        )
