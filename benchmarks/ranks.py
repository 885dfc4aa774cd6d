"""Milliseconds of a step with one rank and with two, and of what ranks exchange.

Each rank has one thread and the same batch size. Images are noise, and the nets are
untrained. The processes of both cases run in turn.

    python benchmarks/ranks.py
"""

import os
import tempfile
import time
from argparse import Namespace
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import arguments, parse, save, spread
from steps import ours, resnet, started

from cakd_mm.engine.launch import adapt_to_device

PAIRS = {'r56_r20': (56, 20), 'r20_r8': (20, 8)}


def train(rank: int, ranks: int, args: Namespace, file: str, all_done: Any) -> None:
    """Run one rank; the first one writes its seconds per step."""
    torch.set_num_threads(1)
    tempfile.tempdir = os.path.dirname(file)  # Nothing is removed at `os._exit`.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(args.port))
    teacher, student = (resnet(depth) for depth in PAIRS[args.pair])
    cfg = ours(teacher, student, args.batch_size)
    cfg.launcher = 'pytorch' if ranks > 1 else 'none'
    adapt_to_device(cfg)
    runner, loop = started(cfg)
    for _ in range(2):
        loop.step()
    seconds = []
    for _ in range(args.steps):
        if ranks > 1:
            dist.barrier()
        start = time.perf_counter()
        loop.step()
        seconds.append(time.perf_counter() - start)
    parts = dict(step=spread(seconds)[0])
    if ranks > 1:
        trained = [p for p in runner.model.parameters() if p.requires_grad]
        weights = sum(p.numel() for p in trained)
        for name, count in dict(all_reduce=weights, flag=1).items():
            parts[name] = exchange(trained[0].new_zeros(count), args.steps)
        parts['gradient_MB'] = 4 * weights / 1e6
    if rank == 0:
        torch.save(parts, file)
    all_done.wait()
    os._exit(0)  # A rank that takes its gloo group apart is aborted now and then.


def exchange(tensor: torch.Tensor, times: int) -> float:
    """Return the seconds of adding a tensor up over all ranks."""
    seconds = []
    for _ in range(times):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(tensor)
        seconds.append(time.perf_counter() - start)
    return spread(seconds)[0]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--pair', choices=PAIRS, default='r56_r20')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--steps', type=int, default=12)
    parser.add_argument('--port', type=int, default=29517)
    parser.set_defaults(rounds=3)
    args = parse(parser)
    if args.quick:
        args.pair, args.batch_size, args.steps = 'r20_r8', 2, 2
    found = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        file = f'{folder}/seconds.pt'
        for _ in range(args.rounds):
            for ranks, parts in found.items():
                all_done = mp.get_context('fork').Barrier(ranks)
                work = (ranks, args, file, all_done)
                mp.start_processes(train, work, nprocs=ranks, start_method='fork')
                parts.append(torch.load(file))
    rows = {}
    for ranks, rounds in found.items():
        rows[ranks] = {
            name: spread([parts[name] for parts in rounds]) for name in rounds[0]
        }
        for name, (middle, low, high) in rows[ranks].items():
            unit, factor = ('MB', 1) if name.endswith('MB') else ('ms', 1e3)
            numbers = [factor * number for number in (middle, low, high)]
            print(f'{ranks} ranks, {name:12s} {numbers[0]:9.3f} {unit}  {numbers[1:]}')
    ratios = [b['step'] / a['step'] for a, b in zip(*found.values(), strict=True)]
    print(f'two ranks take {spread(ratios)[0]:.2f} times as long for twice the images')
    save(args, 'ranks', dict(pair=args.pair, ranks=rows, times_as_long=spread(ratios)))


if __name__ == '__main__':
    main()
