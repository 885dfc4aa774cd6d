"""Mutates keys of configs that are ours, and tells what the user would read."""

import copy
import io
import random
import re
import uuid
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from tiny import CONFIGS, build

from cakd_mm.engine import launch
from cakd_mm.engine.launch.checks import check_own_arguments

METHODS = (
    'cakd_logit_feature',
    'cakd_logit',
    'crd',
    'ofd',
    'reviewkd',
    'ctkd',
    'nkd',
    'cmkd',
)
# What of a config is ours to check, by the start of its keys.
OURS = (
    'model.',
    'default_hooks.finite',
    'default_hooks.labels',
    'default_hooks.terms',
    'default_hooks.distill_epoch',
    'default_hooks.sample_index',
    'default_hooks.extract',
    'default_hooks.history',
    'default_hooks.runtime_info',
    'default_hooks.warmup',
    'default_hooks.student_runtime',
    'custom_hooks.0',
    'train_cfg.type',
    'train_cfg.resident',
    'val_cfg.type',
    'val_cfg.resident',
    'train_dataloader.dataset.type',
    'train_dataloader.dataset.split',
    'data_preprocessor.',
)
# The names are the user's own, and so are the values of what is only shown.
FREE = ('_scope_', 'teacher_from', 'init_cfg')
VALUES: tuple[Any, ...] = (
    None,
    7,
    'abc',
    [],
    {},
    -1,
    float('nan'),
    '',
    True,
    [1],
    {'a': 1},
)
KINDS = ('misspelt', 'removed', 'neighbour', *(['value'] * 5))


class OneStep(Exception):
    """The first training step is done."""


class StopHook(Hook):
    """Ends a run after its first step."""

    priority = 'LOWEST'

    def after_train_iter(self, *args, **kwargs) -> None:
        raise OneStep


@dataclass
class Outcome:
    """What a mutation led to: accepted, named, misdirected or raw."""

    method: str
    key: str
    change: str
    verdict: str
    text: str


def base_config(method: str, folder: Path) -> dict:
    """Return the config of a method with every part of ours, small and fast."""
    parts = (
        'default_runtime.py',
        'datasets/digits.py',
        'schedules/digits.py',
        'pairs/r20_r8_digits.py',
        f'methods/{method}.py',
    )
    file = folder / f'{method}.py'
    bases = [str(CONFIGS / '_base_' / part) for part in parts]
    file.write_text(f'_base_ = {bases}\nmodel = dict(distiller=_base_.distiller)\n')
    cfg = Config.fromfile(file)
    teacher = folder / 'teacher.pth'
    if not teacher.is_file():
        net = build(cfg.model.architecture)
        torch.save(dict(meta={}, state_dict=net.state_dict()), teacher)
    options: dict[str, Any] = {
        'model.teacher_ckpt': str(teacher),
        'model.teacher.backbone.depth': 8,
        'model.teacher_mode': 'tensor',
        'model.student_loss_weight': 1.0,
        'model.calculate_student_loss': True,
        'model.teacher_runtime': dict(compile=False, dtype='float32'),
        'default_hooks.warmup': dict(type='DistillWarmupHook', epochs=2),
        'default_hooks.student_runtime': dict(
            type='StudentRuntimeHook', compile=False, channels_last=False
        ),
        'default_hooks.history': dict(type='BoundedHistoryHook', at_least=10),
        'default_hooks.finite': dict(type='FiniteLossHook', mode='auto', interval=5),
        'train_cfg.resident': False,
        'val_cfg': dict(type='StudentTeacherValLoop', resident=False),
        'train_dataloader.batch_size': 8,
        'train_dataloader.dataset.indices': 64,
        'val_dataloader.dataset.indices': 8,
        'val_dataloader.batch_size': 8,
        'auto_scale_lr.base_batch_size': 8,
    }
    if method == 'ctkd':
        loss = 'model.distiller.distill_losses.loss_ctkd'
        options |= {f'{loss}.instance_wise': True, f'{loss}.hidden': 8}
    if method == 'crd':
        loss = 'model.distiller.distill_losses.loss_crd'
        options |= {f'{loss}.negatives': 16, f'{loss}.tau': 0.07}
    cfg.merge_from_dict(options)
    cfg = cfg._cfg_dict.to_dict()
    cfg['custom_hooks'] = [dict(type='StudentEMAHook', momentum=0.01)]
    return cfg


def keys_of(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every entry below a node."""
    items: Any = ()
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    for name, value in items:
        if name not in FREE:
            yield (*path, name)
            yield from keys_of(value, (*path, name))


def _at(cfg: Any, path: tuple) -> Any:
    for name in path:
        cfg = cfg[name]
    return cfg


def mutate(cfg: dict, draw: random.Random) -> tuple[dict, tuple, str]:
    """Return a changed copy of a config, the changed key, and the change in words."""
    cfg = copy.deepcopy(cfg)
    paths = [p for p in keys_of(cfg) if '.'.join(map(str, p)).startswith(OURS)]
    path = draw.choice(paths)
    parent, name = _at(cfg, path[:-1]), path[-1]
    kind = draw.choice(KINDS)
    if isinstance(parent, list) and kind in ('misspelt', 'removed'):
        kind = 'value'
    if kind == 'misspelt':
        place = draw.randrange(len(name))
        wrong = draw.choice(
            [name[:place] + name[place + 1 :] or 'q', f'{name}s', name + '_x']
        )
        parent[wrong] = parent.pop(name)
        return cfg, path, f'misspelt {wrong}'
    if kind == 'removed':
        del parent[name]
        return cfg, path, 'removed'
    if kind == 'neighbour':
        other = draw.choice(paths)
        value = copy.deepcopy(draw.choice([other[-1], _at(cfg, other)]))
    else:
        value = draw.choice(VALUES)
        if isinstance(parent[name], str) and draw.random() < 0.3:
            value = parent[name] + 'x'
    parent[name] = copy.deepcopy(value)
    return cfg, path, f'= {value!r:.60}'


def first_step(cfg: dict, work_dir: Path) -> None:
    """Go the way of ``tools/train.py`` up to the end of the first training step."""
    whole = Config(cfg)
    whole.work_dir, whole.launcher = str(work_dir), 'none'
    whole.experiment_name = uuid.uuid4().hex
    check_own_arguments(whole)  # as read_config does
    launch.check_checkpoints(whole)
    launch.check_data(whole, ('train', 'val'))
    launch.adapt_to_device(whole)
    runner = launch.build_runner(whole)
    launch.mention_batch(runner)
    runner.register_hook(StopHook())
    with suppress(OneStep):
        runner.train()


def names_key(text: str, path: tuple, change: str) -> bool:
    """Tell whether an error names the key that was changed, in its last two parts."""
    names = [path]
    if change.startswith('misspelt'):
        names.append((*path[:-1], change.removeprefix('misspelt ')))
    return any('.'.join(map(str, one[-2:])) in text for one in names)


def judge(error: Exception | None, path: tuple, change: str) -> str:
    """Return ``accepted``, ``named``, ``misdirected`` or ``raw``."""
    if error is None:
        return 'accepted'
    text = str(error)
    if names_key(text, path, change):
        return 'named'
    return 'misdirected' if re.search(r'`[\w.:/-]+\.?[\w.]*` = ', text) else 'raw'


def outcomes(folder: Path, seed: int, count: int, methods=METHODS) -> list[Outcome]:
    """Return what ``count`` mutations drawn with a seed lead to."""
    draw = random.Random(seed)
    bases = {method: base_config(method, folder) for method in methods}
    found = []
    for index in range(count):
        method = methods[index % len(methods)]
        cfg, path, change = mutate(bases[method], draw)
        error = None
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                first_step(cfg, folder / 'run')
        except Exception as raised:
            error = raised
        key = '.'.join(map(str, path))
        verdict = judge(error, path, change)
        text = '' if error is None else f'{type(error).__name__}: {error}'
        found.append(Outcome(method, key, change, verdict, text))
    return found
