"""Finds top-level keys of a config that nobody reads."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import FlexibleRunner, Runner

from ...utils.arguments import arguments_of, class_of
from ...utils.errors import describe
from ...utils.extract import file_of

# What runners take as arguments or look up in the config, and what tools and mmengine's
# Config read.
READ = {
    *signature(Runner.__init__).parameters,
    *signature(FlexibleRunner.__init__).parameters,
    *('compile', 'find_unused_parameters', 'sync_bn', 'runner_type'),
    *('model_wrapper_cfg', 'activation_checkpointing', 'efficient_conv_bn_eval'),
    *('auto_scale_lr', 'custom_imports'),
} - {'self', 'cfg'}
# The hooks that mmengine adds to any run, by their keys in `default_hooks`.
OF_MMENGINE = (
    *('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler'),
    'checkpoint',
)
# The least likeness of two names, of which one may be the other misspelt.
LIKE = 0.8
# What a user meant by a variable nobody reads, if it is no misspelt key.
FORMER = {
    'optimizer': 'optim_wrapper',
    'optimizer_config': 'optim_wrapper',
    'lr_config': 'param_scheduler',
    'runner': 'train_cfg',
    'log_config': 'default_hooks.logger',
    'checkpoint_config': 'default_hooks.checkpoint',
    'evaluation': 'train_cfg.val_interval',
    'resume_from': 'load_from and resume',
    'data': 'train_dataloader',
    'seed': 'randomness.seed',
}


def unread_keys(cfg: Config) -> list[str]:
    """Return a sentence about each top-level key that is probably a mistake.

    A config may have variables of any name. One is a mistake if nothing that is read
    has its value, and its name is like that of a key, was a key of MMCV's runner, or is
    the name of an entry further down that has another value. In that last case one of a
    base, which has used it, is no mistake.

    Raises:
        ValueError: the key is an argument of the model, which is a class of ours.
    """
    plain = _without_scopes(cfg)
    read = [key for key in plain if key in READ]
    entries = [entry for key in read for entry in _entries(key, key, plain[key])]
    kind = _class_of_model(cfg)
    arguments = (arguments_of(kind) if kind else None) or set()
    is_ours = kind is not None and kind.__module__.startswith('cakd_mm.')
    found = []
    imported: set[str] = getattr(cfg, '_imported_names', set())
    own = {key for key, value in plain.items() if not callable(value)}
    for key in sorted(own - READ - imported):
        value = plain[key]
        below = [(place, other) for place, name, other in entries if name == key]
        if value is None or _is_used(value, [other for _, other in below], entries):
            continue
        if key in arguments and _is_inserted(cfg, key):
            continue
        if key in arguments and is_ours:
            problem = (
                f'It is an argument of the model, model.{key}; nobody reads it here.'
            )
            remedy = f'Write model=dict({key}=...).'
            raise ValueError(describe(key, _shown(value), problem, remedy))
        close = get_close_matches(key, READ | arguments, n=1, cutoff=LIKE)
        if close:
            meant = close[0] if close[0] in READ else f'model.{close[0]}'
        elif key in FORMER:
            meant = FORMER[key]
        elif below and not _is_inherited(cfg, key):
            meant = below[0][0]
        else:
            continue
        problem = 'Nobody reads this key.'
        remedy = f'Write {meant} if that is meant, or else remove it.'
        found.append(describe(key, _shown(value), problem, remedy))
    return found + _switched_off_in_vain(cfg.get('default_hooks') or {})


def without_switched_off(hooks: Mapping[str, Any]) -> ConfigDict:
    """Return ``default_hooks`` without those that None switches off.

    mmengine takes None for its own hooks alone, which have to stay, because mmengine
    adds those that are missing.
    """
    return ConfigDict(
        {k: v for k, v in hooks.items() if v is not None or k in OF_MMENGINE}
    )


def _switched_off_in_vain(hooks: Mapping[str, Any]) -> list[str]:
    """Return a sentence about each None whose name is like that of a hook."""
    on = [name for name, hook in hooks.items() if hook is not None]
    found = []
    for name in hooks.keys() - {*on, *OF_MMENGINE}:
        for close in get_close_matches(name, on, n=1, cutoff=LIKE):
            key = f'default_hooks.{name}'
            problem = f'It switches nothing off, and there is default_hooks.{close}.'
            remedy = f'Write {close}=None if that is meant.'
            found.append(describe(key, None, problem, remedy))
    return found


def _without_scopes(node: Any) -> Any:
    """Return a config in plain containers, without what mmengine adds to bases."""
    if isinstance(node, (Mapping, Config)):
        return {k: _without_scopes(v) for k, v in node.items() if k != '_scope_'}
    if isinstance(node, (list, tuple)):
        return [_without_scopes(part) for part in node]
    return node


def _entries(place: str, name: str, node: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield dotted place, name and value of a node and of all nodes below it."""
    yield place, name, node
    if isinstance(node, dict):
        for key, part in node.items():
            yield from _entries(f'{place}.{key}', str(key), part)
    elif isinstance(node, list):
        for index, part in enumerate(node):
            yield from _entries(f'{place}.{index}', str(index), part)


def _is_used(value: Any, below: Sequence, entries: Sequence) -> bool:
    """Return whether a variable's value stands somewhere in what is read.

    A number stands in many places by chance, so only entries of its name count.
    """
    if isinstance(value, (dict, list, str)) and value:
        # Numbers of numpy would be compared with each entry of a list.
        return any(
            type(value) is type(other) and value == other for _, _, other in entries
        )
    return value in below


def _is_inserted(cfg: Config, key: str) -> bool:
    """Return whether a base has probably put this variable into the model.

    Method bases have the variable ``distiller``, say, which a config puts into its
    model. A config that inherits from that one changes it there, so that the two
    differ, but does not assign the variable itself.
    """
    if not isinstance(cfg[key], Mapping) or key not in (cfg.get('model') or {}):
        return False
    file = file_of(cfg)
    return file is None or not _assigns(file, key)


def _is_inherited(cfg: Config, key: str) -> bool:
    """Return whether a variable is a base's, with the value that it has there.

    mmdet's COCO has ``data_root``, say, which a user need not change who writes another
    folder into the data sets.
    """
    file = file_of(cfg)
    if file is None or not file.is_file() or _assigns(file, key):
        return False
    return Config.fromfile(file).get(key) == cfg[key]


def _assigns(file: Path, key: str) -> bool:
    """Return whether a config file itself assigns a variable."""
    return bool(re.search(rf'^{key}\s*=', file.read_text('utf-8'), re.MULTILINE))


def _class_of_model(cfg: Config) -> type | None:
    model = cfg.get('model')
    if model is None:
        return None
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        kind = class_of(model, MODELS, 'model')
    return kind if isinstance(kind, type) else None


def _shown(value: Any) -> Any:
    """Return a value as an error shows it, a part of the config by its type alone."""
    return '...' if isinstance(value, (dict, list)) else value
