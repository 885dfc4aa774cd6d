"""Sees to it that all ranks follow the same config."""

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size

from .agreement import exchange, require_same

# What a Runner reads. A config may have variables of any name beside it.
COMPARED = (
    *('model', 'data_preprocessor', 'sync_bn', 'compile', 'find_unused_parameters'),
    *('model_wrapper_cfg', 'activation_checkpointing', 'efficient_conv_bn_eval'),
    *('train_cfg', 'train_dataloader', 'optim_wrapper', 'param_scheduler'),
    *('auto_scale_lr', 'val_cfg', 'val_dataloader', 'val_evaluator', 'test_cfg'),
    *('test_dataloader', 'test_evaluator', 'default_hooks', 'custom_hooks'),
    *('randomness', 'runner_type', 'default_scope'),
)
# What each node may have of its own: places of files, how batches are loaded, devices,
# and the sizes of batches that are only scored.
OWN = re.compile(
    r'(.*[._])?(root|prefix|file|dir|path|ckpt|from|init_cfg\.checkpoint|backend_args'
    r'|file_client_args|download|workers|pin_memory|prefetch_factor|timeout|device'
    r'|pin_memory_device|multiprocessing_context|device_ids|output_device)'
    r'|.*local_rank.*|(val|test)_dataloader\.batch_size'
)


def require_same_config(cfg: Config) -> None:
    """Refuse configs that differ between ranks; all have to call it.

    Keys that nodes may have of their own, such as paths, are not compared. Of an object
    that is no plain value only the kind is compared.

    Raises:
        ValueError: on every rank, with the first key that differs and what each has.
        OtherRankError: another rank has failed instead.
    """
    if get_world_size() == 1:
        return
    own = {k: v for key in COMPARED for k, v in _leaves(cfg.get(key), key)}
    # A config may be long, and nearly always all are the same.
    digest = sha256(repr(sorted(own.items())).encode()).hexdigest()
    if len(set(exchange(digest))) == 1:
        return
    configs = exchange(own)
    keys = (key for config in configs for key in config)
    first = next(key for key in keys if len({_found(x, key) for x in configs}) > 1)
    problem = 'The ranks have different configs:'
    remedy = 'Give every node the same config and the same --cfg-options.'
    require_same(_found(own, first), first, own.get(first), problem, remedy)


def _found(leaves: dict[str, Any], key: str) -> str:
    if key in leaves:
        return repr(leaves[key])
    return '{...}' if any(x.startswith(f'{key}.') for x in leaves) else 'nothing'


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and what they have, the same in each process."""
    if OWN.fullmatch(key):
        return
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _leaves(part, f'{key}.{name}')
    elif isinstance(value, (list, tuple)) and value:
        for index, part in enumerate(value):
            yield from _leaves(part, f'{key}.{index}')
    elif isinstance(value, (Mapping, list, tuple)):
        yield key, {}
    elif isinstance(value, (set, frozenset)):
        yield key, sorted(map(repr, value))
    elif value is None or isinstance(value, (str, bytes, int, float, complex)):
        yield key, value
    else:
        # Texts of objects may hold addresses, and modules of a config have any name.
        kind = value if hasattr(value, '__qualname__') else type(value)
        yield key, kind.__qualname__
