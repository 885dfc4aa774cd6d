"""How many hours a pair of a table takes, from some steps of each of its rows.

Teacher, plain student and every method as they are shipped, with all lossless settings
of docs/guides/speed.md. Images are noise, because only their size matters here.
Validation and checkpoints are left out.

    python benchmarks/pair_hours.py [--table II] [--pair r56_r20]
"""

from collections.abc import Callable

import torch
from common import arguments, interleave, parse, save, spread
from mmengine.config import Config
from steps import quiet, started

from cakd_mm.engine.launch import adapt_to_device
from cakd_mm.engine.launch.options import parse as parse_option
from research.budget import speed_options
from research.tables import Row, select

# Training images and the width of one, by data set.
IMAGES = dict(cifar100=(50_000, 32), tinyimagenet=(100_000, 32))


def config(row: Row, data: str, batch_size: int | None, speed: str) -> Config:
    """Return a row's config, on noise."""
    cfg = Config.fromfile(row.config)
    distils = 'teacher' in cfg.model
    options = [word.split('=', 1) for word in speed_options(speed, data, distils)]
    cfg.merge_from_dict({key: parse_option(value) for key, value in options})
    loader = cfg.train_dataloader
    pipeline = [step for step in loader.dataset.pipeline if 'Random' in step.type]
    pipeline.append(dict(type='PackInputs'))
    loader.dataset = dict(type='RandomImages', size=IMAGES[data][1], pipeline=pipeline)
    loader.batch_size = batch_size or loader.batch_size
    cfg.train_cfg.type = 'SteppedLoop'
    if distils:
        cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    quiet(cfg)
    cfg.launcher = 'none'
    adapt_to_device(cfg)
    return cfg


def measure(row: Row, data: str, rounds: int, quick: bool) -> dict:
    """Return the milliseconds of a row's step and the hours of its recipe."""
    cfg = config(row, data, *((2, 'resident') if quick else (None, 'lossless')))
    batch_size, epochs = cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs
    steps = epochs * -(-IMAGES[data][0] // batch_size)
    step: Callable = started(cfg)[1].step
    times = interleave({row.name: step}, rounds, 0 if quick else 0.5)
    seconds = spread(times[row.name])[0]
    # PyTorch compiles eight forms of a function, and this process has more nets.
    torch._dynamo.reset()
    return dict(
        variant=row.name,
        median_ms=1e3 * seconds,
        batch_size=batch_size,
        steps=steps,
        hours=seconds * steps / 3600,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--table', choices=('I', 'II'), default='II')
    parser.add_argument('--pair', default='r56_r20')
    args = parse(parser)
    [pair] = select(args.table, [args.pair])
    rows: list[dict] = []
    print(
        '| row | ms a step | hours of the recipe |\n' + '| --- ' * 3 + '|', flush=True
    )
    for row in pair.rows[1:3] if args.quick else pair.rows:
        found = measure(row, pair.data, args.rounds, args.quick)
        rows.append(found)
        print(
            f'| {row.name} | {found["median_ms"]:.2f} | {found["hours"]:.2f} |',
            flush=True,
        )
        # After each row, because whoever measures may run out of time.
        save(args, 'pair_hours', dict(pair=pair.title, rows=rows))
    hours = sum(row['hours'] for row in rows)
    print(f'\n{pair.title}, one seed, one run after another: {hours:.1f} hours')


if __name__ == '__main__':
    main()
