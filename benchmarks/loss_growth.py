"""How the losses' cost grows: with classes, with channels, with layers distilled."""

from collections.abc import Callable

import common
from loss import BASELINE, build, scores, step

BATCH = 64
WIDTH = 256
# By what grows: its sizes, and the losses of a size.
SERIES: dict[str, tuple[list[int], Callable]] = {
    'classes': ([10, 100, 1000, 5000, 21000], lambda n: losses('CAKDLogitLoss', n)),
    'channels': ([16, 64, 256, 1024, 2048], lambda n: losses('CAKDFeatureLoss', n)),
    'layers': ([1, 2, 3, 4], lambda n: losses('CAKDFeatureLoss', WIDTH, n)),
}


def losses(kind: str, size: int, count: int = 1) -> dict[str, Callable]:
    """Return DKD, and the sum of some losses of a kind, eager and compiled.

    Args:
        kind: The class of the losses.
        size: Columns of the matrix that all take: classes or channels.
        count: How many layers are distilled.
    """
    student, teacher, labels = scores(BATCH, size)
    inputs = [student, teacher] + ([labels] if kind == 'CAKDLogitLoss' else [])

    def summed(**settings) -> Callable:
        modules = [build(kind, **settings) for _ in range(count)]
        return lambda *tensors: sum(loss(*tensors) for loss in modules)

    return {
        BASELINE: step(build('DKDLoss', beta=8.0), student, teacher, labels),
        'eager': step(summed(), *inputs),
        'compiled': step(summed(compile=True), *inputs),
    }


def main() -> None:
    """Time each series and print a table with a row per size."""
    args = common.parse(common.arguments(__doc__))
    results: dict[str, dict] = {}
    for name, (sizes, losses_of) in SERIES.items():
        print(f'\n| {name} | DKDLoss ms | eager ms | compiled ms |')
        print('| --- | --- | --- | --- |')
        for size in sizes[:1] if args.quick else sizes:
            times = common.interleave(losses_of(size), args.rounds, 0.03)
            rows = common.summarize(times, BASELINE)
            results.setdefault(name, {})[size] = rows
            cells = ' | '.join(f'{row["median_ms"]:.3g}' for row in rows)
            print(f'| {size} | {cells} |', flush=True)
    settings = dict(batch=BATCH, width_of_layers=WIDTH)
    common.save(args, 'loss_growth', dict(settings, **results))


if __name__ == '__main__':
    main()
