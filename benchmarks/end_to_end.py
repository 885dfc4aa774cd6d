"""Images per second of whole training steps, ours against mmrazor's on the same pair.

A step is one of the standard Runner, with hooks and loader. Images are noise, and the
nets are untrained. mmrazor's variant reads jpgs, as it does for Tiny-ImageNet: by one
worker on a CPU, which trains on the same cores, and by up to eight beside a GPU, which
then also feed ours without options. One process visits all variants in turn.
``of_peak`` is the share of a step that its convolutions would take at the rate of large
matrix products in the same precision. On a GPU the kernels of a step are counted, too.

    python benchmarks/end_to_end.py --memory [--pair r34_r18] [--batch-sizes 128 1024]
"""

import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import (
    arguments,
    device,
    interleave,
    parse,
    save,
    summarize,
    synchronize,
    table,
)
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from steps import (
    fast_student,
    folder_until_exit,
    imagenet_resnet,
    ours,
    resnet,
    started,
    stock,
)
from torch.utils.flop_counter import FlopCounterMode

from cakd_mm.utils.machine import cores

# Processes that read images beside a GPU.
BESIDE = min(8, cores()) if torch.cuda.is_available() else 0
STOCK = 'mmrazor'
IN_MEMORY = 'mmrazor, images in memory'
MORE = ('kernels', 'of_peak', 'peak_MiB')
PAIRS = {
    'r56_r20': (lambda: resnet(56), lambda: resnet(20), 32),
    'r20_r8': (lambda: resnet(20), lambda: resnet(8), 32),
    'r34_r18': (lambda: imagenet_resnet(34), lambda: imagenet_resnet(18), 224),
}
COMPILED = dict(type='StudentRuntimeHook')
GRAPHS = dict(COMPILED, cuda_graphs=True)
FAST, BF16 = dict(teacher_runtime=dict()), dict(teacher_runtime=dict(dtype='bfloat16'))
# Arguments of `ours`, hook of the student, and whether the student trains in bf16.
OURS: dict[str, tuple[dict, dict | None, bool]] = {
    'ours, no option': (dict(resident=False), None, False),
    'ours, resident data': ({}, None, False),
    '+ fast teacher': (FAST, None, False),
    '+ fast student: lossless': (FAST, COMPILED, False),
    'lossless, bf16 teacher': (BF16, COMPILED, False),
    'all bf16': (FAST, COMPILED, True),
}
if torch.cuda.is_available():
    OURS['all bf16, CUDA graphs'] = (FAST, GRAPHS, True)


def config(name: str, pair: str, batch_size: int) -> Config:
    """Return a variant's config."""
    teacher, student, size = PAIRS[pair]
    nets = teacher(), student()
    if name in (STOCK, IN_MEMORY):
        folder = folder_until_exit() if name == STOCK else None
        return stock(*nets, batch_size, BESIDE or 1, size, folder)
    model, hook, amp = OURS[name]
    cfg = ours(*nets, batch_size, size=size, workers=BESIDE, **model)
    return fast_student(cfg, hook, amp)


def gflop(pair: str) -> tuple[float, float]:
    """Return the GFLOP of an image: the teacher forward; the student and back."""
    teacher, student, size = PAIRS[pair]
    image, work = torch.zeros(1, 3, size, size), []
    for net, passes in ((teacher(), 1), (student(), 3)):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            net = MODELS.build(net).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(image, mode='tensor')
        work.append(passes * counter.get_total_flops() / 1e9)
    return tuple(work)


def peak_gflops(dtype: torch.dtype, size: int = 1024) -> float:
    """Return the GFLOP/s of the fastest of some products of square matrices."""
    # Products may use TF32 where convolutions may, to be comparable.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    a, b = torch.randn(2, size, size, device=device()).to(dtype)
    fastest = math.inf
    for _ in range(20):
        synchronize()
        start = time.perf_counter()
        a @ b
        synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest / 1e9


def floor_ms(name: str, work: tuple[float, float], peaks: dict, rows: int) -> float:
    """Return what the arithmetic alone of a step would take at these peaks."""
    options, _, amp = OURS.get(name, ({}, None, False))
    fast = options.get('teacher_runtime', {}).get('dtype') == 'bfloat16'
    teacher = torch.bfloat16 if amp or fast else torch.float32
    student = torch.bfloat16 if amp else torch.float32
    return 1e3 * rows * (work[0] / peaks[teacher] + work[1] / peaks[student])


def kernels(step: Callable[[], None]) -> int:
    """Return how many kernels a step launches on a GPU."""
    with torch.profiler.profile() as profile:
        step()
        synchronize()
    kinds = (event.device_type for event in profile.events())
    return sum(kind == torch.autograd.DeviceType.CUDA for kind in kinds)


def peak(name: str, pair: str, batch_size: int, steps: int) -> float:
    """Return the MiB that a run of this variant alone has needed at most."""
    command = [sys.executable, '-W', 'ignore', __file__, '--pair', pair]
    command += ['--batch-sizes', str(batch_size), '--alone', name]
    command += ['--steps', str(steps), '--threads', str(torch.get_num_threads())]
    result = subprocess.run(command, capture_output=True, encoding='utf-8', check=True)
    return float(result.stdout.split()[-1])


def alone(name: str, pair: str, batch_size: int, steps: int) -> None:
    """Train some steps and print the peak of memory in MiB, for :func:`peak`.

    On a CPU that is the peak of the process, shared libraries included, plus the
    private memory that its workers have at the end.
    """
    _, loop = started(config(name, pair, batch_size))
    for _ in range(steps):
        loop.step()
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated() / 2**20)
        return
    # getrusage would give the maximum of the process that this one was forked from.
    lines = Path('/proc/self/status').read_text(encoding='utf-8').splitlines()
    fields = dict(line.split(':', 1) for line in lines)
    kilobytes = int(fields['VmHWM'].split()[0])
    for children in Path('/proc/self/task').glob('*/children'):
        for child in children.read_text(encoding='utf-8').split():
            rollup = (
                Path(f'/proc/{child}/smaps_rollup')
                .read_text(encoding='utf-8')
                .splitlines()
            )
            own = (line.split()[1] for line in rollup if line.startswith('Private_'))
            kilobytes += sum(map(int, own))
    print(kilobytes / 2**10)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--pair', choices=PAIRS, default='r56_r20')
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[64])
    parser.add_argument('--variants', nargs='+', choices=OURS, default=list(OURS))
    parser.add_argument(
        '--alone', choices=[STOCK, IN_MEMORY, *OURS], help='print peak memory'
    )
    parser.add_argument('--memory', action='store_true', help='peak of each, alone')
    parser.add_argument('--steps', type=int, default=10, help='for the peak of memory')
    args = parse(parser)
    if args.quick:
        args.pair, args.batch_sizes, args.steps = 'r20_r8', [2], 2
    if args.alone:
        alone(args.alone, args.pair, args.batch_sizes[0], args.steps)
        return
    results, work = {}, gflop(args.pair)
    size = 64 if args.quick else 8192 if torch.cuda.is_available() else 1024
    peaks = {x: peak_gflops(x, size) for x in (torch.float32, torch.bfloat16)}
    said = {str(dtype): round(rate) for dtype, rate in peaks.items()}
    print(f'{sum(work):.2f} GFLOP an image; matrix products reach {said} GFLOP/s')
    for batch_size in args.batch_sizes:
        names = [STOCK, IN_MEMORY, *args.variants]
        loops = {n: started(config(n, args.pair, batch_size))[1] for n in names}
        variants = {name: loop.step for name, loop in loops.items()}
        rows = summarize(interleave(variants, args.rounds, 0.5), STOCK)
        for row in rows:
            row['images_per_second'] = 1e3 * batch_size / row['median_ms']
            floor = floor_ms(row['variant'], work, peaks, batch_size)
            row['of_peak'] = round(floor / row['median_ms'], 3)
            if torch.cuda.is_available():
                row['kernels'] = kernels(variants[row['variant']])
            if args.memory:
                name = row['variant']
                row['peak_MiB'] = peak(name, args.pair, batch_size, args.steps)
        print(f'\n{args.pair}, batch {batch_size}\n\n{table(rows, STOCK)}\n')
        for row in rows:
            more = {k: row[k] for k in MORE if k in row}
            print(f'{row["variant"]:28s} {row["images_per_second"]:9.0f} img/s {more}')
        results[str(batch_size)] = rows
    results = dict(gflop_per_image=sum(work), matmul_gflops=said, batch_sizes=results)
    save(args, f'end_to_end_{args.pair}', results)


if __name__ == '__main__':
    main()
