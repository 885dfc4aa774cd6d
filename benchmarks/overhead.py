"""Milliseconds that a toolbox adds to a step, over a hand-written loop.

The nets compute next to nothing, so that preprocessing, bookkeeping, loss and hooks are
left. One process visits all variants in turn. Ours has channels-last batches
(``StudentRuntimeHook``), as fast runs have.

    python benchmarks/overhead.py
"""

from collections.abc import Callable
from itertools import cycle

import torch
from common import arguments, interleave, parse, save, spread
from steps import hand_written, null_net, ours, started, stock

STEP = 'hand-written step'
WHOLE = 'hand-written step and resident batch'


def variants(batch_size: int) -> dict[str, Callable[[], None]]:
    """Return what is timed, by name; each begins with what it is compared with."""
    net = null_net()
    cfg = ours(net, net, batch_size)
    cfg.default_hooks.student_runtime = dict(type='StudentRuntimeHook', compile=False)
    runner, loop = started(cfg)
    stock_runner, stock_loop = started(stock(net, net, batch_size))
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
    threads = torch.get_num_threads()
    save(args, f'overhead_{threads}threads', dict(batch_sizes=results))


if __name__ == '__main__':
    main()
