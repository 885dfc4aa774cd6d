"""Processes that are the ranks of a gloo group."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# mmengine's visualizer and our Digits import these when they are made. What is imported
# here, no forked process has to import anew, which takes seconds in each.
import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch


def two_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """See :func:`on_ranks`."""
    return on_ranks(2, work, folder)


def on_ranks(count: int, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what ``work(rank)`` gives on each of ``count`` forked processes.

    Args:
        count (int): How many ranks there are.
        work (Callable): What a rank does; tensors and plain values may come back.
        folder (Path): An empty folder where the ranks meet.
    """
    everyone = multiprocessing.get_context('fork').Barrier(count)

    def run(rank: int) -> None:
        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=count
        )
        torch.save(work(rank), folder / f'{rank}.pth')
        everyone.wait(60)
        os._exit(0)  # torch 2.5 may deadlock when it takes a gloo group apart

    run_to_the_end(run, count)
    return [
        torch.load(folder / f'{rank}.pth', weights_only=False) for rank in range(count)
    ]


def run_to_the_end(run: Callable[[int], None], count: int = 2) -> None:
    """Fork processes that call ``run(rank)``, and see that each ends well."""
    context = multiprocessing.get_context('fork')
    ranks = [context.Process(target=run, args=(rank,)) for rank in range(count)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in ranks] == [0] * count
