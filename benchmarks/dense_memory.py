"""Memory of losses between maps of scores, beside the maps: the peak of a step.

Forward and backward, of KD and CAKD by :class:`DenseLoss` in parts and in one part, and
of KD as it is written in two lines. On a CPU each runs in a process of its own, whose
resident memory is read.
"""

import ctypes
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path

import common
import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

import cakd_mm.models.losses  # noqa: F401  (registers them)

CLASSES = 19  # Cityscapes
SIZE = (8, 512, 1024)  # images, height, width
QUICK = (1, 256, 512)
MIB = 2**20
ALL = 2**40  # scores at once


def plain_kd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return KD at each place of a map."""
    inside = F.log_softmax(student, 1), F.softmax(teacher, 1)
    return F.kl_div(*inside, reduction='none').sum(1).mean()


def dense(kind: str, **settings: int) -> Callable[..., Tensor]:
    """Return a DenseLoss of KD or CAKD; only CAKD takes the labels."""
    cfg = dict(type='DenseLoss', loss=dict(type=kind, tau=1.0), **settings)
    loss = MODELS.build(cfg).to(common.device())
    with_labels = kind == 'CAKDLogitLoss'
    return lambda s, t, labels: loss(s, t, labels) if with_labels else loss(s, t)


VARIANTS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    'KD, plain': lambda: plain_kd,
    'KD, one part': lambda: dense('KDLoss', scores_at_once=ALL),
    'KD': lambda: dense('KDLoss'),
    'CAKD, one part': lambda: dense('CAKDLogitLoss', scores_at_once=ALL),
    'CAKD': lambda: dense('CAKDLogitLoss'),
}


def peak(name: str, size: tuple[int, int, int]) -> float:
    """Return what a step of a variant takes beside the maps and labels, in MiB."""
    images, *places = size
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, images, CLASSES, *places, generator=draw)
    labels = torch.randint(CLASSES, (images, *places), generator=draw)
    maps = [x.to(common.device()) for x in (student, teacher, labels)]
    del student, teacher, labels
    maps[0].requires_grad_()
    loss = VARIANTS[name]()
    # Code that is loaded in the first step is not counted.
    small = [x.detach()[..., :8, :8].clone() for x in maps]
    loss(small[0].requires_grad_(), *small[1:]).backward()
    if common.device() == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(*maps).backward()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    # A forked process has memory of its parent's that is free, or was its peak.
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')
    before = resident('VmRSS')
    loss(*maps).backward()
    return resident('VmHWM') - before


def resident(line: str) -> float:
    """Return the resident memory of this process now, or its peak, in MiB."""
    text = Path('/proc/self/status').read_text(encoding='utf-8')
    return int(re.findall(rf'{line}:\s+(\d+) kB', text)[0]) / 1024


def alone(name: str, size: tuple[int, int, int]) -> float:
    """Return the peak of a variant, on a CPU that of a process of its own."""
    if common.device() == 'cuda':
        return peak(name, size)
    with multiprocessing.get_context('fork').Pool(1) as pool:
        return pool.apply(one_thread, (name, size))


def one_thread(name: str, size: tuple[int, int, int]) -> float:
    """As :func:`peak`; threads of OpenMP do not live on in a forked process."""
    torch.set_num_threads(1)
    return peak(name, size)


def main() -> None:
    """Measure each variant and print a table."""
    args = common.parse(common.arguments(__doc__))
    size = QUICK if args.quick else SIZE
    map_mib = 4 * CLASSES * size[0] * size[1] * size[2] / MIB
    print(
        f'a map of {size[0]} x {CLASSES} x {size[1]} x {size[2]}: {map_mib:.0f} MiB\n'
    )
    print('| loss | MiB beside the maps | maps |\n| --- | --- | --- |')
    rows = {}
    for name in VARIANTS:
        rows[name] = alone(name, size)
        print(f'| {name} | {rows[name]:.0f} | {rows[name] / map_mib:.1f} |', flush=True)
    common.save(args, 'dense_memory', dict(map_MiB=map_mib, peak_MiB=rows))


if __name__ == '__main__':
    main()
