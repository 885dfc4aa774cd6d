"""Whether a run's images can be kept in memory, and how they are."""

import copy
import os
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.registry import LOOPS
from mmengine.runner import Runner
from mmpretrain.engine import SwitchRecipeHook

from ...datasets.random_window import reason_of
from ...datasets.resident_fit import resident_bytes, why_not_resident
from ...utils.arguments import arguments_of, class_of
from ...utils.machine import free_memory
from .speeds import PARTS, RESIDENT_TRAIN, RESIDENT_VAL

LOADERS = {RESIDENT_TRAIN: 'train_dataloader', RESIDENT_VAL: 'val_dataloader'}
LOOPS_OF = {RESIDENT_TRAIN: 'train', RESIDENT_VAL: 'val'}
# The share of the free memory that a set may take.
SHARE = 0.25
# What counts as free where the system does not tell, in bytes.
UNKNOWN = 4 * 10**9
MB = 10**6


def why_no_resident_train(runner: Runner) -> str | None:
    """Return what keeps the training set out of memory, as far as the config tells."""
    loop = runner.cfg.train_cfg
    if 'resident' in loop:
        return 'the config sets train_cfg.resident.'
    if 'type' not in loop or not _takes_resident(loop):
        return "its loop cannot do it; train_cfg.type='ResumableTrainLoop' could."
    if any(isinstance(hook, SwitchRecipeHook) for hook in runner.hooks):
        return 'SwitchRecipeHook changes the pipeline.'
    return why_not_resident(runner.cfg.train_dataloader, LOADERS[RESIDENT_TRAIN])


def why_no_resident_val(runner: Runner) -> str | None:
    """Return what keeps the validation set out of memory, as far as is known yet."""
    cfg = runner.cfg
    if not cfg.train_cfg.get('resident'):
        return 'the training set is not kept in memory, either.'
    loop = cfg.get('val_cfg')
    if loop is None:
        return 'there is none.'
    if 'resident' in loop:
        return 'the config sets val_cfg.resident.'
    if 'type' in loop and not _takes_resident(loop):
        return 'the config sets val_cfg.type.'
    return why_not_resident(cfg.val_dataloader, LOADERS[RESIDENT_VAL])


def room(cfg: Config, part: str) -> tuple[bool, str]:
    """Return whether a set takes a small share of the free memory, and both sizes.

    On a CPU each rank of a machine keeps the set.
    """
    size = resident_bytes(cfg[LOADERS[part]].dataset)
    if get_device() == 'cuda':
        free, place = torch.cuda.mem_get_info()[0], 'of the GPU'
    else:
        size *= int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        free, place = free_memory() or UNKNOWN, 'of memory'
    text = f'{size / MB:,.0f} MB, where {free / MB:,.0f} MB {place} are free'
    return size <= SHARE * free, text


def settings_of(cfg: Config, part: str) -> dict[str, Any]:
    """Return the keys that keep a set in memory."""
    if part == RESIDENT_VAL and 'type' in cfg.val_cfg:
        return {'val_cfg.resident': True}
    return PARTS[part]


def keep_in_memory(runner: Runner, part: str) -> str | None:
    """Build a loop whose images stay in memory.

    Returns:
        str: What only shows in the images themselves and forbids it, if anything.
    """
    name = LOOPS_OF[part]
    runner.cfg.merge_from_dict(copy.deepcopy(settings_of(runner.cfg, part)))
    setattr(runner, f'_{name}_loop', runner.cfg[f'{name}_cfg'])
    try:
        getattr(runner, f'{name}_loop')  # which builds it
    except ValueError as refusal:
        return reason_of(refusal)
    return None


def let_go(runner: Runner, part: str, before: ConfigDict) -> None:
    """Take a loop's config of before, with which it is built anew."""
    name = LOOPS_OF[part]
    runner.cfg[f'{name}_cfg'] = before
    setattr(runner, f'_{name}_loop', before)


def _takes_resident(loop: ConfigDict) -> bool:
    kind = class_of(loop, LOOPS, 'loop')
    return isinstance(kind, type) and 'resident' in (arguments_of(kind) or ())
