"""Refuses top-level keys that mmengine's runners do not bear, before building."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS, MODELS, RUNNERS
from mmengine.runner import FlexibleRunner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ...models.algorithms import FrozenTeacherDistill
from ...utils.arguments import class_of
from ...utils.errors import describe, nearest
from ...utils.schema import find_fault
from ..hooks.runner_keys_hook import refusal_of_wrapper

WRAPPER = 'model_wrapper_cfg'
SHAPES: dict[str, Any] = {
    WRAPPER: dict | None,
    'sync_bn': Literal['torch', 'mmcv'] | None,
    'find_unused_parameters': bool | None,
}
SHARDING = "model.teacher_shard=True shares out a big teacher's weights"


def check_runner_keys(cfg: Config) -> None:
    """Refuse values of top-level keys that would fail late, or say nothing.

    Raises:
        KeyError: there is no such runner or wrapper.
        TypeError, ValueError: a value is wrong, or does not go with the model.
        RuntimeError: PyTorch cannot compile in this way.
    """
    for key, hint in SHAPES.items():
        _check_shape(cfg.get(key), hint, key)
    _check_runner(cfg)
    _check_wrapper(cfg)
    _check_compile(cfg.get('compile'))


def _check_shape(value: Any, hint: Any, key: str) -> None:
    fault = find_fault(value, hint, key)
    if fault is not None:
        raise fault.error()


def _check_runner(cfg: Config) -> None:
    kind = None
    if cfg.get('runner_type') is not None:
        kind = class_of({'type': cfg.runner_type}, RUNNERS, 'runner_type')
    if isinstance(kind, type) and issubclass(kind, FlexibleRunner):
        problem = 'It builds the model after what is checked on it, and does not read '
        problem += 'activation_checkpointing, sync_bn, compile and others.'
        remedy = "Remove it: mmengine's Runner trains on several ranks, too, and "
        remedy += f'{SHARDING}.'
        raise ValueError(describe('runner_type', kind.__name__, problem, remedy))
    if cfg.get('strategy') is not None:
        problem = "mmengine's Runner has no strategies, and would not read it."
        remedy = f'Remove it, or write {WRAPPER}=dict(...) for the wrapper; {SHARDING}.'
        value: Any = cfg.strategy
        value = dict(value) if isinstance(value, Mapping) else value
        raise ValueError(describe('strategy', value, problem, remedy))


def _check_wrapper(cfg: Config) -> None:
    wrapper = cfg.get(WRAPPER)
    if wrapper is None:
        return
    default = dict(type='MMDistributedDataParallel')
    kind = class_of({**default, **wrapper}, MODEL_WRAPPERS, WRAPPER)
    if not isinstance(kind, type):
        return
    model = cfg.get('model')
    is_distillation = isinstance(model, FrozenTeacherDistill)
    if isinstance(model, Mapping) and 'type' in model:
        built = class_of(model, MODELS, 'model')
        is_distillation = issubclass(built, FrozenTeacherDistill)
    if is_distillation and not issubclass(kind, MMDistributedDataParallel):
        raise ValueError(refusal_of_wrapper(kind.__name__))
    if kind is MMDistributedDataParallel:
        _check_arguments_of_ddp(wrapper)


def _check_arguments_of_ddp(wrapper: Mapping) -> None:
    """Refuse misspelt arguments, and switches that are no bool.

    On one rank nobody would read them.
    """
    known = {
        **signature(DistributedDataParallel.__init__).parameters,
        **signature(MMDistributedDataParallel.__init__).parameters,
    }
    for name in ('self', 'module', 'kwargs'):
        del known[name]
    for name, value in wrapper.items():
        key = f'{WRAPPER}.{name}'
        if name in ('type', '_scope_'):
            continue
        if name not in known:
            problem = 'MMDistributedDataParallel has no such argument.'
            remedy = f'Like it: {nearest(name, known)}.'
            raise TypeError(describe(key, value, problem, remedy))
        if isinstance(known[name].default, bool):
            _check_shape(value, bool | None, key)


def _check_compile(options: Any) -> None:
    """Refuse what ``torch.compile`` does not take; nothing is compiled here."""
    if options is None or isinstance(options, bool):
        return
    if not isinstance(options, Mapping):
        problem = 'It is neither a bool nor the arguments of torch.compile.'
        remedy = "Write True, or compile=dict(mode='default'), say."
        raise TypeError(describe('compile', options, problem, remedy))
    try:
        torch.compile(nn.Identity(), **options)
    except Exception as error:  # PyTorch's are of several kinds
        problem = f'torch.compile does not take it: {error}.'
        remedy = "Write True, or compile=dict(mode='default'), say."
        raise ValueError(describe('compile', dict(options), problem, remedy)) from error
