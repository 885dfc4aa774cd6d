"""What ranks exchange in a step of every method, counted, and how large gradients are.

Two gloo ranks train every method of ``configs/_base_/methods`` on small nets, with
the guard against nan, and count their calls of ``torch.distributed`` and the bytes
that each rank gives, those of gradients apart. The size of the gradients is then added
up for pairs as they are shipped. No time is measured.

    python benchmarks/exchange.py
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import arguments, parse, save
from methods import METHODS, algorithm, batch, built
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from steps import CONFIGS

from cakd_mm.engine.hooks import FiniteLossHook

CALLS = dict(
    all_reduces=('all_reduce',),
    gathers=('all_gather', 'all_gather_into_tensor'),
    others=('broadcast', 'reduce', 'gather', 'scatter', 'reduce_scatter', 'barrier'),
)
# Pairs whose gradients are added up, and folders of configs.
PAIRS = (
    *('r56_r20_cifar100', 'r32x4_r8x4_cifar100', 'wrn40-2_wrn16-2_cifar100'),
    *('r34_r18_in1k', 'r50_mbv1_in1k', 'r50_mbv2_in1k'),
)
FOLDERS = ('kd', 'cakd', 'crd', 'ofd', 'reviewkd')


@contextmanager
def counted(found: dict[str, int]) -> Iterator[None]:
    """Count calls and bytes of ``torch.distributed``; DDP's own do not go this way."""
    kept = {}
    for kind, names in CALLS.items():
        for name in names:
            kept[name] = getattr(dist, name)

            def call(*args, function=kept[name], kind=kind, name=name, **kwargs):
                found[kind] += 1
                # What a gather receives comes first.
                sent = args[name.startswith('all_gather')] if args else None
                if isinstance(sent, torch.Tensor):
                    found['bytes'] += sent.nbytes
                return function(*args, **kwargs)

            setattr(dist, name, call)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(dist, name, function)


def exchanged(method: str) -> dict[str, int]:
    """Return what this rank exchanges in the second step of a method."""
    model = algorithm(method)
    wrapped = MMDistributedDataParallel(model.train())
    wrapper = OptimWrapper(torch.optim.SGD(wrapped.parameters(), lr=0.01))
    guard = FiniteLossHook(interval=100)
    runner = SimpleNamespace(model=wrapped, iter=0, epoch=0, train_loop=None)
    guard.before_train(runner)

    def step(index: int) -> None:
        losses = wrapped.train_step(batch(model, index), wrapper)
        guard.after_train_iter(runner, index, outputs=losses)

    step(0)  # CRD's normaliser
    found = dict.fromkeys([*CALLS, 'bytes'], 0)
    with counted(found):
        step(1)
    return found | dict(gradients=gradient_bytes(model))


def count(rank: int, file: str, all_done: Any) -> None:
    """Run one of two ranks; the first one writes what it has counted."""
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    dist.init_process_group(
        'gloo', init_method=f'file://{file}.meet', rank=rank, world_size=2
    )
    found = {method: exchanged(method) for method in METHODS}
    if rank == 0:
        torch.save(found, file)
    all_done.wait()
    os._exit(0)  # A rank that takes its gloo group apart is aborted now and then.


def trained(pair: str) -> dict[str, int]:
    """Return the bytes of the gradients of a pair, by folder of configs."""
    found = {}
    for folder in FOLDERS:
        prefix = '' if folder == 'cakd' else f'{folder}_'
        model = Config.fromfile(CONFIGS / folder / f'{prefix}{pair}.py').model
        found[folder] = gradient_bytes(built(**model))
    return found


def gradient_bytes(model: torch.nn.Module) -> int:
    """Return how many bytes the gradients of all that is trained take."""
    return sum(p.nbytes for p in model.parameters() if p.requires_grad)


def main() -> None:
    args = parse(arguments(__doc__))
    # It would print how every layer begins.
    MMLogger.get_current_instance().setLevel('ERROR')
    with tempfile.TemporaryDirectory() as folder:
        file = f'{folder}/counts.pt'
        all_done = mp.get_context('fork').Barrier(2)
        mp.start_processes(count, (file, all_done), nprocs=2, start_method='fork')
        methods = torch.load(file)
    print('| method | all-reduces | gathers | bytes of a rank |\n' + '| --- ' * 4 + '|')
    for name, row in methods.items():
        numbers = (row['all_reduces'], row['gathers'], row['bytes'])
        print(f'| {name} | ' + ' | '.join(map(str, numbers)) + ' |')
    pairs = {pair: trained(pair) for pair in PAIRS[: 1 if args.quick else None]}
    print('\n| G of a pair, MB | ' + ' | '.join(FOLDERS) + ' |')
    print('| --- ' * (1 + len(FOLDERS)) + '|')
    for pair, sizes in pairs.items():
        megabytes = (f'{sizes[folder] / 1e6:.1f}' for folder in FOLDERS)
        print(f'| {pair} | ' + ' | '.join(megabytes) + ' |')
    save(args, 'exchange', dict(methods=methods, pairs=pairs))


if __name__ == '__main__':
    main()
