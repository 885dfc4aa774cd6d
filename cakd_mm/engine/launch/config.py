"""From a tool's arguments to its config."""

import argparse
import copy
import os
from pathlib import Path

from mmengine.config import Config

from ...utils.building import KINDS
from ...utils.errors import describe, nearest
from ...utils.extract import EXTRACTED
from ...utils.net_config import read_named
from .keys import READ
from .options import OptionAction

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionAction,
        default={},
        help='settings to override, as key=value pairs: randomness.seed=1 '
        '"load_from=/my dir/x.pth"; a text with a comma needs quotes of its own: '
        '''"load_from='/a, b/x.pth'"''',
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    # torch's launchers send --local-rank or set LOCAL_RANK, older ones --local_rank.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def read_config(args: argparse.Namespace) -> Config:
    """Read the config and merge the arguments every tool has.

    Raises:
        FileNotFoundError: there is no such config.
        KeyError: ``--cfg-options`` names a key that nobody reads.
        ValueError: the work dir has a name that is no UTF-8, or the config has no
            place for an option.
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
    _merge_options(cfg, args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    require_utf8(Path(cfg.work_dir), 'work_dir')
    return cfg


def require_utf8(path: Path, key: str) -> None:
    """Refuse a path that logs and configs, which are UTF-8, cannot name.

    Raises:
        ValueError: a byte of its name, or of the current folder's, is no UTF-8.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        problem = 'It has a byte that is no UTF-8, so that no log could name it.'
        raise ValueError(
            describe(key, str(path), problem, 'Give another folder.')
        ) from error


def _check_options(cfg: Config, options: dict) -> None:
    """A misspelt first part of an option would make a key that nobody reads."""
    known = READ | cfg.keys()
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


def _merge_options(cfg: Config, options: dict) -> None:
    """Merge options into a config, and name the one for which there is no place."""
    try:
        cfg.merge_from_dict(options)
    except Exception:
        for key, value in options.items():
            try:
                copy.deepcopy(cfg).merge_from_dict({key: value})
            except Exception as error:  # mmengine's are of several kinds
                problem = f'The config has no place for it ({error}).'
                remedy = 'An entry of a list of values cannot be set: write the list.'
                key = f'--cfg-options {key}'
                kind = type(error) if isinstance(error, KINDS) else ValueError
                raise kind(describe(key, value, problem, remedy)) from error
        raise


def use_amp(cfg: Config) -> None:
    """Turn on mixed precision: fp16 with loss scaling on a GPU, bf16 on a CPU."""
    cfg.optim_wrapper.type = 'AmpOptimWrapper'


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
