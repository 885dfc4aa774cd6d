"""How the losses' cost grows: with classes, with channels, with layers distilled."""

from collections.abc import Callable

import common
from loss import BASELINE, build, scores, step

BATCH = 64
CLASSES = [10, 100, 1000, 5000, 21000]
CHANNELS = [16, 64, 256, 1024, 2048]
LAYERS = [1, 2, 3, 4]
WIDTH = 256


def logit_losses(classes: int) -> dict[str, Callable]:
    """Return the logit loss, eager and compiled, and DKD."""
    inputs = scores(BATCH, classes)
    return {
        BASELINE: step(build('DKDLoss', beta=8.0), *inputs),
        'eager': step(build('CAKDLogitLoss'), *inputs),
        'compiled': step(build('CAKDLogitLoss', compile=True), *inputs),
    }


def feature_losses(channels: int) -> dict[str, Callable]:
    """Return the feature loss, eager and compiled, and DKD of the same matrix."""
    student, teacher, labels = scores(BATCH, channels)
    return {
        BASELINE: step(build('DKDLoss', beta=8.0), student, teacher, labels),
        'eager': step(build('CAKDFeatureLoss'), student, teacher),
        'compiled': step(build('CAKDFeatureLoss', compile=True), student, teacher),
    }


def layers(count: int) -> dict[str, Callable]:
    """Return the feature losses of several layers, one loss each, added up."""
    student, teacher, labels = scores(BATCH, WIDTH)

    def several(**settings) -> Callable:
        losses = [build('CAKDFeatureLoss', **settings) for _ in range(count)]
        return lambda *inputs: sum(loss(*inputs) for loss in losses)

    return {
        BASELINE: step(build('DKDLoss', beta=8.0), student, teacher, labels),
        'eager': step(several(), student, teacher),
        'compiled': step(several(compile=True), student, teacher),
    }


def main() -> None:
    """Time each series and print a table with a row per size."""
    args = common.parse(common.arguments(__doc__))
    results = {}
    series = dict(classes=CLASSES, channels=CHANNELS, layers=LAYERS)
    makers = dict(classes=logit_losses, channels=feature_losses, layers=layers)
    for name, sizes in series.items():
        print(f'\n| {name} | DKDLoss ms | eager ms | compiled ms |')
        print('| --- | --- | --- | --- |')
        for size in sizes[:1] if args.quick else sizes:
            times = common.interleave(makers[name](size), args.rounds, 0.03)
            rows = common.summarize(times, BASELINE)
            results.setdefault(name, {})[size] = rows
            cells = ' | '.join(f'{row["median_ms"]:.3g}' for row in rows)
            print(f'| {size} | {cells} |', flush=True)
    settings = dict(batch=BATCH, width_of_layers=WIDTH)
    common.save(args, 'loss_growth', dict(settings, **results))


if __name__ == '__main__':
    main()
