"""What mmengine's history of logged scalars costs a step and a checkpoint.

Whole steps of a net that computes next to nothing. Every history has as many values as
so many steps leave: all of them, or those that BoundedHistoryHook keeps.
"""

from io import BytesIO

import numpy as np
import torch
from common import arguments, interleave, parse, save, spread, summarize, table
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from steps import SteppedLoop, null_net, ours, started

LOGGED = ('lr', 'data_time', 'loss', 'student.loss', 'distill.loss_cakd', 'time')
NEW, BOUNDED = 'new', 'bounded'


def config(bounded: bool, batch_size: int) -> Config:
    """Return CAKD between two null nets, with or without the hook."""
    cfg = ours(null_net(), null_net(), batch_size)
    cfg.default_hooks.pop('history', None)
    if bounded:
        cfg.default_hooks.history = dict(type='BoundedHistoryHook')
    return cfg


def after(steps: int, bounded: bool, batch_size: int) -> tuple[Runner, SteppedLoop]:
    """Return a run whose histories are as after so many steps."""
    runner, loop = started(config(bounded, batch_size))
    for name in LOGGED:
        history = HistoryBuffer(np.full(steps, 0.5), np.ones(steps, dtype=int))
        runner.message_hub.log_scalars[f'train/{name}'] = history
    loop.step()
    names = set(runner.message_hub.log_scalars)
    assert names == {f'train/{name}' for name in LOGGED}, names
    return runner, loop


def size(runner: Runner) -> int:
    """Return the bytes that histories add to a checkpoint."""
    file = BytesIO()
    torch.save(runner.message_hub.state_dict()['log_scalars'], file)
    return file.tell()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--batch-size', type=int, default=8)
    steps = [10_000, 100_000, 300_000]
    parser.add_argument('--steps', type=int, nargs='+', default=steps)
    args = parse(parser)
    if args.quick:
        args.batch_size, args.steps = 2, [10]
    runs = {NEW: after(0, False, args.batch_size)}
    for count in args.steps:
        runs[f'after {count} steps'] = after(count, False, args.batch_size)
    runs[f'after {args.steps[-1]} steps, {BOUNDED}'] = after(
        args.steps[-1], True, args.batch_size
    )
    times = interleave({name: run[1].step for name, run in runs.items()}, args.rounds)
    rows = summarize(times, NEW)
    for row, (runner, _) in zip(rows, runs.values(), strict=True):
        row['checkpoint_MB'] = size(runner) / 1e6
        pairs = zip(times[row['variant']], times[NEW], strict=True)
        row['added_ms'] = 1e3 * spread([a - b for a, b in pairs])[0]
    print(table(rows, NEW), '\n')
    for row in rows:
        print(
            f'{row["variant"]:32s} {row["added_ms"]:+8.2f} ms a step '
            f'{row["checkpoint_MB"]:8.3f} MB of a checkpoint'
        )
    results = dict(batch_size=args.batch_size, scalars=len(LOGGED), rows=rows)
    save(args, 'history', results)


if __name__ == '__main__':
    main()
