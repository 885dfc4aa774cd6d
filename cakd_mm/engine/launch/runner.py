"""From a config to a Runner that trains or tests."""

import sys
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from ...utils.agreement import require_same, together
from ...utils.checkpoint import (
    fingerprint,
    hexadecimal,
    load_strictly,
    model_weights,
    read_checkpoint,
)
from ...utils.compiling import check_cache
from ...utils.extract import plain_config
from ...utils.model import unwrap
from ...utils.terminal import is_read_along, show_briefly
from ...utils.tools import PACKAGE, other_copy
from ...version import __version__
from ..hooks import ClassNamesHook, WholeCheckpointHook
from ..hooks.logged import logger_hook
from ..hooks.same_ranks_hook import DIGITS
from .checks import check_own_arguments
from .device import choose_threads, naming_sync_bn
from .keys import unread_keys, without_switched_off
from .resume import choose_checkpoint


class _Runner(Runner):
    """Ends on all ranks if one cannot build the model, which its wrapper waits for.

    A terminal gets a short log.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        if is_read_along():
            show_briefly(logger)
        return logger

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        with together():
            return super().build_model(model).to(get_device())


def build_runner(cfg: Config) -> Runner:
    """Build the Runner the config asks for, and log what it runs on.

    Raises:
        TypeError: a hook, loop, dataset or preprocessor of ours has no such argument.
        ValueError: an argument of the model stands beside it, the run is to go on and
            no checkpoint of it can be read, or there are no layers for ``sync_bn``.
        RuntimeError: the model is to be compiled, and others can write the code.
        OtherRankError: another rank has failed.
    """
    with together():
        check_own_arguments(cfg)
        unread = unread_keys(cfg)
        if cfg.get('default_hooks'):
            cfg.default_hooks = without_switched_off(cfg.default_hooks)
        if cfg.get('compile'):  # by mmengine, which does not look at the folder
            check_cache()
        notes = choose_checkpoint(cfg)
    threads = choose_threads()
    with naming_sync_bn(cfg):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else _Runner.from_cfg(cfg)
    for level, text in notes:
        runner.logger.log(level, text)
    for hook in runner.hooks:
        if type(hook) is CheckpointHook:  # mmengine's own, which may lose a checkpoint
            hook.__class__ = WholeCheckpointHook
    _write_widths(runner)
    runner.logger.info(f'cakd_mm {__version__}, {PACKAGE}')
    beside = other_copy(sys.argv[0])
    if beside is not None:
        runner.logger.warning(
            f'{sys.argv[0]} lies beside {beside}, but Python has imported {PACKAGE}. '
            f'To run the former: pip install -e {beside.parent}.'
        )
    if threads is not None:
        runner.logger.info(threads)
    for sentence in unread:
        runner.logger.warning(sentence)
    return runner


def _write_widths(runner: Runner) -> None:
    """Put the widths that were read off the nets into the config of the work dir."""
    filled = getattr(unwrap(runner.model), 'distiller_config', None)
    if not isinstance(filled, dict) or not runner.cfg.get('model'):
        return
    # The layout of a config's text takes a third of a second.
    if runner.cfg.model.distiller != filled:
        runner.cfg.model.distiller = ConfigDict(filled)
        runner.dump_config()


def build_test_runner(cfg: Config, checkpoint: str) -> Runner:
    """Build a Runner that scores ``checkpoint``; of a distillation, the student.

    The teacher is then not needed, not even on disk. The weights are loaded
    strictly; of a run with averaging they are the average.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, unreadable or
            does not fit, or ranks have different ones.
    """
    remedy = 'Give a checkpoint trained with this config.'
    content = read_checkpoint(checkpoint, 'checkpoint', remedy)
    weights = model_weights(content)
    if 'architecture' in cfg.model:
        plain = plain_config(cfg)
        cfg.pop('data_preprocessor', None)
        cfg.model = plain.model
        if 'data_preprocessor' in plain:
            cfg.data_preprocessor = plain.data_preprocessor
    cfg.load_from, cfg.resume = None, False
    cfg.pop('sync_bn', None)  # which is for training, and needs a GPU
    hooks = cfg.get('default_hooks') or {}
    if isinstance(hooks, dict):  # A student's own config has none.
        ours = dict(
            packed_copies=dict(type='PackedCopiesHook'),
            progress=dict(type='ProgressHook'),
        )
        cfg.default_hooks = {**ours, **hooks}
    runner = build_runner(cfg)
    model = unwrap(runner.model)
    load_strictly(model, weights, 'checkpoint', checkpoint, remedy)
    if get_world_size() > 1:
        found = hexadecimal(fingerprint(model.state_dict()))[:DIGITS]
        problem = 'The ranks have not loaded the same:'
        same = 'Give every node the same file.'
        require_same(f'weights {found}', 'checkpoint', checkpoint, problem, same)
    for hook in runner.hooks:
        if isinstance(hook, ClassNamesHook):
            hook.after_load_checkpoint(runner, content)
    hook = logger_hook(runner)
    if hook is not None and not is_main_process():
        # All ranks of mmengine's write the scores, into one file and at once.
        runner.hooks.remove(hook)
    return runner
