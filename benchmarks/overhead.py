"""Milliseconds that a toolbox adds to a step, over a hand-written loop.

The nets are next to nothing, so that what is left is preprocessing, bookkeeping, loss
and hooks. One process, all variants in turn.

    python benchmarks/overhead.py
"""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import torch
from common import arguments, interleave, parse, save, spread
from mmengine.config import Config

import cakd_mm  # noqa: F401  (first: makes mmrazor importable)

from nulls import classifier, hand_written, options, started  # isort: skip

STEP = 'hand-written step'
WHOLE = 'hand-written step and resident batch'
CONFIGS = Path(__file__).parent.parent / 'configs'


def ours(batch_size: int, **runtime) -> Config:
    """Return CAKD between logits with null nets, all hooks as shipped."""
    cfg = Config.fromfile(CONFIGS / 'cakd/demo_digits.py')
    null = classifier(dict(type='NullBackbone'), 3, neck=False)
    for key in ('train_dataloader', 'train_cfg', 'param_scheduler', 'optim_wrapper'):
        cfg.pop(key)
    cfg.update(options(resident=True, stock=False, batch_size=batch_size))
    cfg.model = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture=null,
        teacher=null,
        allow_random_teacher=True,
        distiller=cfg.model.distiller,
        data_preprocessor=cfg.data_preprocessor,
        **runtime,
    )
    quiet(cfg)
    return cfg


def stock(batch_size: int) -> Config:
    """Return mmrazor's own algorithm with its DKD loss."""
    null = classifier(dict(type='NullBackbone'), 3, neck=False)
    cfg = Config(options(resident=False, stock=True, batch_size=batch_size))
    labels = dict(type='ModuleInputs', source='head.loss_module')
    logits = dict(type='ModuleOutputs', source='head.fc')
    cfg.default_scope = 'mmpretrain'
    cfg.model = dict(
        _scope_='mmrazor',
        type='SingleTeacherDistill',
        architecture=null,
        teacher=null,
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(logits=logits, gt_labels=labels),
            teacher_recorders=dict(logits=logits),
            distill_losses=dict(
                loss_dkd=dict(type='DKDLoss', tau=4, beta=8.0, reduction='mean')
            ),
            loss_forward_mappings=dict(
                loss_dkd=dict(
                    preds_S=dict(recorder='logits', from_student=True),
                    preds_T=dict(recorder='logits', from_student=False),
                    gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
                )
            ),
        ),
        data_preprocessor=dict(
            type='mmpretrain.ClsDataPreprocessor', **cfg.data_preprocessor
        ),
    )
    cfg.default_hooks = dict(logger=dict(type='LoggerHook', interval=100))
    quiet(cfg)
    return cfg


def quiet(cfg: Config) -> None:
    """Leave out what a benchmark has no use for: validation and checkpoints."""
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key, None)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1)


def variants(batch_size: int) -> dict[str, Callable[[], None]]:
    """Return what is timed, by name; each begins with what it is compared with."""
    runner, loop = started(ours(batch_size))
    stock_runner, stock_loop = started(stock(batch_size))
    batch = next(iter(loop.dataloader))
    listed = next(iter(stock_loop.dataloader))
    stacked = dict(listed, inputs=torch.stack(listed['inputs']))
    by_hand = hand_written(runner.model)
    images, labels = batch['inputs'].contiguous(), batch['data_samples'].gt_label
    dataset = loop.dataloader.dataset
    order = torch.randperm(len(dataset)).split(batch_size)
    batches = cycle([part.tolist() for part in order])

    def from_memory() -> None:
        found = dataset.__getitems__(next(batches))
        by_hand(found['inputs'], found['data_samples'].gt_label)

    def train_step(runner, data) -> None:
        runner.model.train_step(data, runner.optim_wrapper)

    return {
        STEP: lambda: by_hand(images, labels),
        'train_step, ours': lambda: train_step(runner, batch),
        'train_step, mmrazor, list': lambda: train_step(stock_runner, listed),
        'train_step, mmrazor, stacked': lambda: train_step(stock_runner, stacked),
        WHOLE: from_memory,
        'Runner, ours, resident': loop.step,
        'Runner, mmrazor, in memory': stock_loop.step,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[64, 128])
    args = parse(parser)
    results = {}
    for batch_size in [2] if args.quick else args.batch_sizes:
        times = interleave(variants(batch_size), args.rounds, 0.2)
        rows = []
        print(f'\nbatch {batch_size}: milliseconds, and over hand-written (quartiles)')
        for name, values in times.items():
            base = times[WHOLE if name == WHOLE or 'Runner' in name else STEP]
            over = [a - b for a, b in zip(values, base, strict=True)]
            middle, low, high = (1e3 * number for number in spread(over))
            row = dict(variant=name, median_ms=1e3 * spread(values)[0])
            rows.append(dict(row, over_ms=middle, over_quartiles_ms=[low, high]))
            print(
                f'{name:40s} {row["median_ms"]:8.3f}   '
                f'+{middle:.3f} ({low:.3f} to {high:.3f})'
            )
        results[str(batch_size)] = rows
    save(args, 'overhead', dict(batch_sizes=results))


if __name__ == '__main__':
    main()
