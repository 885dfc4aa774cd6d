"""What all benchmarks share: interleaved timing, hardware, tables and json.

It has to be imported before mmrazor, because the import of ``research`` here imports
cakd_mm, which makes mmrazor importable.
"""

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / 'tests'))  # small configs and nets

from research.provenance import commit, cpuinfo, processor  # noqa: E402

RESULTS = ROOT / 'research' / 'results' / 'benchmarks'


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes.

    ``--quick`` only shows that a benchmark runs. Its times say nothing of speed, so
    they are not written, unless ``--out`` names a folder.
    """
    parser = argparse.ArgumentParser(description=(description or '').splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='smallest sizes, 1 round')
    parser.add_argument('--rounds', type=int, default=15, help='visits of each variant')
    parser.add_argument('--threads', type=int, help="of the CPU; default: torch's")
    parser.add_argument('--out', type=Path, help=f'folder, {RESULTS} by default')
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and set the number of threads."""
    args = parser.parse_args()
    if args.quick:
        args.rounds = 1
    elif args.out is None:
        args.out = RESULTS
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def device() -> str:
    """Return what is measured: the GPU, if there is one."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def synchronize() -> None:
    """Wait for a GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(
    variants: dict[str, Callable[[], object]],
    rounds: int,
    seconds: float = 0.1,
    warmup: int = 3,
) -> dict[str, list[float]]:
    """Time all variants in turn, so that noise of the machine meets all of them.

    Args:
        variants: Name to what is timed.
        rounds: How often each is visited; each round starts with another one.
        seconds: How long a visit lasts: as many calls as fit, at least one.
        warmup: Calls of each before anything is timed.

    Returns:
        dict[str, list[float]]: Seconds per call, one number a round.
    """
    calls = {}
    for name, run in variants.items():
        for _ in range(warmup):
            run()
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        calls[name] = max(1, int(seconds / (time.perf_counter() - start)))
    times = {name: [] for name in variants}
    names = list(variants)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                run = variants[name]
                synchronize()
                start = time.perf_counter()
                for _ in range(calls[name]):
                    run()
                synchronize()
                times[name].append((time.perf_counter() - start) / calls[name])
    finally:
        gc.enable()
    return times


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles around it."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4)
    return median(values), low, high


def summarize(times: dict[str, list[float]], baseline: str) -> list[dict]:
    """Return a row per variant: median, quartiles, and how much faster it is.

    A ratio is the median of the rounds' own ratios to ``baseline``.
    """
    rows = []
    for name, values in times.items():
        middle, low, high = spread(values)
        pairs = zip(times[baseline], values, strict=True)
        ratio, ratio_low, ratio_high = spread([a / b for a, b in pairs])
        rows.append(
            dict(
                variant=name,
                median_ms=1e3 * middle,
                quartiles_ms=[1e3 * low, 1e3 * high],
                faster=ratio,
                faster_quartiles=[ratio_low, ratio_high],
            )
        )
    return rows


def table(rows: list[dict], baseline: str) -> str:
    """Return the rows as a Markdown table."""
    head = f'variant | median ms | quartiles | faster than {baseline} | quartiles'
    lines = [f'| {head} |', '|' + ' --- |' * 5]
    for row in rows:
        low, high = row['quartiles_ms']
        least, most = row['faster_quartiles']
        lines.append(
            f'| {row["variant"]} | {row["median_ms"]:.4g} | {low:.4g} to {high:.4g} '
            f'| {row["faster"]:.2f} | {least:.2f} to {most:.2f} |'
        )
    return '\n'.join(lines)


def environment() -> dict:
    """Return what the numbers depend on: hardware, versions, commit."""
    packages = ['torch', 'torchvision', 'mmrazor', 'numpy']
    flags = cpuinfo().get('flags', '').split()
    known = ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16')
    return dict(
        date=date.today().isoformat(),
        commit=commit(),
        python=platform.python_version(),
        versions={name: version(name) for name in packages},
        cpu=f'{processor()} ({", ".join(flag for flag in known if flag in flags)})',
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def save(args: argparse.Namespace, name: str, results: dict) -> None:
    """Write the results and the environment, if there is a folder to write to."""
    if args.out is None:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f'{name}.json'
    text = json.dumps(dict(environment=environment(), **results), indent=1)
    file.write_text(text + '\n', encoding='utf-8')
    print(f'\nwritten to {file}')
