"""What every command-line tool does between its arguments and the Runner."""

import argparse
import ast
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from inspect import signature
from pathlib import Path
from urllib.request import urlopen

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.logging import print_log
from mmengine.registry import (
    DATASETS,
    HOOKS,
    LOOPS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    RUNNERS,
    DefaultScope,
)
from mmengine.runner import Runner, find_latest_checkpoint
from mmpretrain.datasets import CIFAR10, CIFAR100
from mmpretrain.datasets.utils import check_integrity

from ..engine.hooks.logged import logger_hook
from ..version import __version__
from .arguments import check_part
from .checkpoint import is_remote, load_strictly, model_weights, read_checkpoint
from .errors import describe, nearest
from .extract import EXTRACTED, plain_config
from .machine import cores
from .model import unwrap
from .net_config import read_named
from .tools import PACKAGE, other_copy

# What the Runner looks up in the config beside its own arguments.
READ_FROM_CONFIG = ('compile', 'find_unused_parameters', 'sync_bn', 'runner_type')
# Whose arguments are checked, and what mmengine reads beside them, by registry.
CHECKED = ('cakd_mm.', 'mmpretrain.datasets.', 'torch.optim.')
READ_BESIDE = {
    HOOKS.name: ('priority',),
    OPTIM_WRAPPERS.name: ('constructor', 'paramwise_cfg'),
}
# What mmpretrain downloads when it is not there.
CIFAR = dict(CIFAR10=CIFAR10, CIFAR100=CIFAR100)
# Whoever has set one of these has chosen the number of threads.
THREADS_SET_BY = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='settings to override, as key=value pairs: '
        'optim_wrapper.optimizer.lr=0.1 randomness.seed=1',
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    # torch's launchers send --local-rank or set LOCAL_RANK, older ones --local_rank.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def read_config(args: argparse.Namespace) -> Config:
    """Read the config and merge the arguments every tool has.

    Raises:
        FileNotFoundError: there is no such config.
        KeyError: ``--cfg-options`` names a key that nobody reads.
    """
    cfg = read_named(args.config, 'config')
    if EXTRACTED.fullmatch(Path(cfg.filename).stem):
        # The Runner copies the config into the work dir under its own name, where the
        # plain student's config would be lost (and this copy, when training ends).
        renamed = Path(cfg.filename).with_suffix('').as_posix() + '_run.py'
        # An ordinary assignment would make a key of the config.
        object.__setattr__(cfg, '_filename', renamed)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    _check_options(cfg, args.cfg_options)
    cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return cfg


def _check_options(cfg: Config, options: dict) -> None:
    """A misspelt first part of an option would make a key that nobody reads."""
    known = {*cfg.keys(), *signature(Runner.__init__).parameters, *READ_FROM_CONFIG}
    for key, value in options.items():
        if key.split('.')[0] not in known:
            raise KeyError(
                describe(
                    f'--cfg-options {key}',
                    value,
                    f'The config has no {key.split(".")[0]!r}.',
                    f'Like it: {nearest(key.split(".")[0], known)}.',
                )
            )


def use_amp(cfg: Config) -> None:
    """Turn on mixed precision: fp16 with loss scaling on a GPU, bf16 on a CPU."""
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if get_device() != 'cpu':
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def adapt_to_device(cfg: Config) -> None:
    """Replace what mmengine cannot do without a GPU; changes nothing with one.

    The process group is made with gloo, the model wrapper loses its GPU id, and
    mixed precision becomes bf16.
    """
    if get_device() != 'cpu':
        return
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper':
        wrapper.type = 'CPUAmpOptimWrapper'
        for gpu_only in ('loss_scale', 'use_fsdp'):
            wrapper.pop(gpu_only, None)
        if wrapper.get('dtype') is None:
            wrapper.dtype = 'bfloat16'
    if cfg.launcher == 'none':
        return
    if not dist.is_initialized():
        _set_rank_variables(cfg.launcher)
        dist.init_process_group('gloo')
    model_wrapper = ConfigDict(
        type='MMDistributedDataParallel',
        find_unused_parameters=cfg.get('find_unused_parameters', False),
        broadcast_buffers=False,
    )
    model_wrapper.update(cfg.get('model_wrapper_cfg') or {})
    model_wrapper.device_ids = None
    cfg.model_wrapper_cfg = model_wrapper


def _set_rank_variables(launcher: str) -> None:
    """Translate a launcher's variables into those that torch reads.

    Raises:
        OSError: the launcher has not set its variables.
    """
    sources = {
        'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
        'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
        'mpi': (
            'OMPI_COMM_WORLD_RANK',
            'OMPI_COMM_WORLD_SIZE',
            'OMPI_COMM_WORLD_LOCAL_RANK',
        ),
    }[launcher]
    targets = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
    for target, source in zip(targets, sources, strict=True):
        if source not in os.environ:
            raise OSError(
                describe(
                    '--launcher',
                    launcher,
                    f'The variable {source} is not set.',
                    'Start through tools/dist_train.sh or tools/slurm_train.sh.',
                )
            )
        os.environ[target] = os.environ[source]
    if int(os.environ.get('SLURM_NNODES', 1)) > 1 and 'MASTER_ADDR' not in os.environ:
        raise OSError(
            describe(
                '--launcher',
                launcher,
                'Several nodes without a GPU have to be told where to meet.',
                'Set MASTER_ADDR to the first node.',
            )
        )
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')


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
            if not root or '://' in root:
                continue
            kind = str(dataset.get('type')).removeprefix('mmpretrain.')
            if kind in CIFAR:
                problem = _cifar_problem(CIFAR[kind], dataset)
            elif kind.startswith('MNIST') or Path(root).is_dir():
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


def datasets(key: str, node) -> Iterator[tuple[str, dict]]:
    """Yield (config key, config) of a loader and of all datasets below it."""
    if not isinstance(node, dict):
        return
    yield key, node
    yield from datasets(f'{key}.dataset', node.get('dataset'))
    for index, part in enumerate(node.get('datasets') or []):
        yield from datasets(f'{key}.datasets.{index}', part)


def check_checkpoints(cfg: Config) -> None:
    """Read the checkpoint a run is to go on or start from, before building.

    Raises:
        FileNotFoundError, ValueError: it is missing or cannot be read.
    """
    path, key = cfg.get('load_from'), 'load_from'
    if cfg.get('resume'):
        path, key = path or find_latest_checkpoint(cfg.work_dir), '--resume'
    if path and not is_remote(path):
        remedy = 'Name an earlier checkpoint of the work dir.'
        checkpoint = read_checkpoint(path, key, remedy)
        if cfg.get('resume'):
            _mention_scheduler(cfg, checkpoint, path)


def _mention_scheduler(cfg: Config, checkpoint: dict, path: str) -> None:
    """Warn that a resumed run keeps the schedule of the learning rate it began with."""
    key = 'param_scheduler'
    before = _written((checkpoint.get('meta') or {}).get('cfg'), key)
    if before and before != _written(Config({key: cfg.get(key)}).pretty_text, key):
        print_log(
            describe(
                key,
                cfg.get(key),
                f'{path} was trained with {before}, and mmengine goes on with that.',
                'To change the schedule, write model.student_ckpt=... (load_from of a '
                'plain classifier) and begin anew.',
            ),
            'current',
            logging.WARNING,
        )


def _written(text, name: str) -> str | None:
    """Return what a config's text assigns to a name, as text.

    It is parsed and never run, because a checkpoint's text comes from outside.
    """
    with suppress(SyntaxError, TypeError, ValueError):  # it is no config's text
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return ast.unparse(node.value)
    return None


def build_runner(cfg: Config) -> Runner:
    """Build the Runner the config asks for, and log what it runs on.

    Raises:
        TypeError: a hook, loop, dataset or preprocessor of ours has no such argument.
    """
    _check_own_arguments(cfg)
    threads = choose_threads()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.logger.info(f'cakd_mm {__version__}, {PACKAGE}')
    beside = other_copy(sys.argv[0])
    if beside is not None:
        runner.logger.warning(
            f'{sys.argv[0]} lies beside {beside}, but Python has imported {PACKAGE}. '
            f'To run the former: pip install -e {beside.parent}.'
        )
    if threads is not None:
        runner.logger.info(threads)
    return runner


def _check_own_arguments(cfg: Config) -> None:
    """Refuse misspelt arguments of our classes, of data sets and of optimizers.

    Others have their own errors.
    """
    parts = [(f'default_hooks.{k}', v) for k, v in _items(cfg.get('default_hooks'))]
    hooks = cfg.get('custom_hooks') or []
    parts += [(f'custom_hooks.{index}', hook) for index, hook in enumerate(hooks)]
    found = [(HOOKS, *part) for part in parts]
    for stage in ('train', 'val', 'test'):
        found.append((LOOPS, f'{stage}_cfg', cfg.get(f'{stage}_cfg')))
        loader = f'{stage}_dataloader'
        found += [(DATASETS, *part) for part in datasets(loader, cfg.get(loader))]
    wrapper = cfg.get('optim_wrapper') or {}
    found.append((OPTIM_WRAPPERS, 'optim_wrapper', wrapper))
    found.append((OPTIMIZERS, 'optim_wrapper.optimizer', wrapper.get('optimizer')))
    found.append((MODELS, 'data_preprocessor', cfg.get('data_preprocessor')))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        for registry, key, part in found:
            beside = READ_BESIDE.get(registry.name, ())
            check_part(part, registry, key, only=CHECKED, beside=beside)


def _items(node) -> list[tuple[str, dict]]:
    return list(node.items()) if isinstance(node, dict) else []


def choose_threads() -> str | None:
    """Compute with half of the cores, unless somebody has said with how many.

    PyTorch's threads wait for one another after every operation. Where other processes
    share the cores (or a container may use fewer than it sees), all threads wait for
    the one that got no core. The number depends on the machine alone, because a resumed
    run equals the uninterrupted one only with the same number of threads.

    Returns:
        str: What has been chosen, for the log; None if nothing was to choose.
    """
    chosen = [name for name in THREADS_SET_BY if name in os.environ]
    if chosen or get_device() != 'cpu':
        return None
    usable, ranks = cores(), int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    threads = max(1, usable // 2 // ranks)
    torch.set_num_threads(threads)
    return (
        f'Computing with {threads} thread(s), half of the {usable} cores; set '
        'OMP_NUM_THREADS to choose otherwise.'
    )


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


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by real over base batch size.

    Raises:
        ValueError: the config does not say for which batch its rate is meant.
    """
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise ValueError(
            describe(
                'auto_scale_lr',
                cfg.get('auto_scale_lr'),
                'The config does not say for which batch its learning rate is.',
                'Add auto_scale_lr=dict(base_batch_size=...).',
            )
        )
    cfg.auto_scale_lr.enable = True


def build_test_runner(cfg: Config, checkpoint: str) -> Runner:
    """Build a Runner that scores ``checkpoint``; of a distillation, the student.

    The teacher is then not needed, not even on disk. The weights are loaded
    strictly; of a run with averaging they are the average.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, unreadable or
            does not fit.
    """
    remedy = 'Give a checkpoint trained with this config.'
    weights = model_weights(read_checkpoint(checkpoint, 'checkpoint', remedy))
    if 'architecture' in cfg.model:
        plain = plain_config(cfg)
        cfg.pop('data_preprocessor', None)
        cfg.model = plain.model
        if 'data_preprocessor' in plain:
            cfg.data_preprocessor = plain.data_preprocessor
    cfg.load_from, cfg.resume = None, False
    runner = build_runner(cfg)
    model = unwrap(runner.model)
    load_strictly(model, weights, 'checkpoint', checkpoint, remedy)
    hook = logger_hook(runner)
    if hook is not None and not is_main_process():
        # All ranks of mmengine's write the scores, into one file and at once.
        runner.hooks.remove(hook)
    return runner
