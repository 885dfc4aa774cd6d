"""Draw what went on inside a distillation run, or compare several runs.

Of the work dir of one distillation run:
``terms.png``: the terms of every loss over the epochs. Of a run with a
CAKDFeatureLoss over channels also ``clusters.png``: how often each channel is
strong, by class; and ``images.png``: where the strongest channels are active.

Of several work dirs, or of a folder that contains work dirs, however deep (also of
runs without distillation): ``sweep.png``: top-1 over the epochs; and ``sweep.md``,
which is printed too: what differs between the configs, and the last top-1 over the
seeds.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from cakd_mm.utils.errors import describe
from cakd_mm.utils.tool_process import start_tool
from cakd_mm.visualization.history import is_run
from cakd_mm.visualization.pictures import CHANNELS, draw_run
from cakd_mm.visualization.sweep import (
    draw_sweep,
    find_runs,
    read_sweep,
    sweep_table,
)

OF_ONE_RUN = ('images', 'checkpoint', 'loss', 'channels')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'work_dirs',
        type=Path,
        nargs='+',
        metavar='WORK_DIR',
        help='work dir of a distillation run; or several work dirs, or folders of some',
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='default: the folder given; the current one if several are given',
    )
    parser.add_argument(
        '--images',
        type=int,
        nargs='+',
        metavar='IDX',
        help='images of the validation split; default: six of different classes',
    )
    parser.add_argument(
        '--checkpoint', type=Path, help='default: the newest of the work dir'
    )
    parser.add_argument('--loss', help='the feature loss; default: the first')
    parser.add_argument(
        '--channels', type=int, help=f'channels per image (default: {CHANNELS})'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    first, *others = args.work_dirs
    args.out = args.out or (Path() if others else first)
    if not others and is_run(first):
        options = {name: getattr(args, name) for name in OF_ONE_RUN}
        for name, figure in draw_run(first, **options):
            save(figure, args.out / name)
    else:
        compare_runs(args)


def compare_runs(args: argparse.Namespace) -> None:
    """Draw the scores of several runs, and print and write the table."""
    work_dirs = find_runs(args.work_dirs)
    for option in OF_ONE_RUN:
        refuse(option, getattr(args, option), work_dirs)
    sweep = read_sweep(work_dirs)
    save(draw_sweep(sweep), args.out / 'sweep.png')
    table = sweep_table(sweep)
    path = args.out / 'sweep.md'
    path.write_text(table, encoding='utf-8')
    print(f'wrote {path}\n\n{table}', end='')


def refuse(option: str, value: object, work_dirs: list[Path]) -> None:
    """Refuse an option that concerns one run, if it is given with several.

    Raises:
        ValueError: it is given.
    """
    if value is None:
        return
    value = str(value) if isinstance(value, Path) else value
    problem = 'It concerns one distillation run, but several, or a folder, are given.'
    remedy = f'Leave it out, or name one work dir only, {work_dirs[0]}, say.'
    raise ValueError(describe(f'--{option}', value, problem, remedy))


def save(figure: Figure, path: Path) -> None:
    """Write a picture and tell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f'wrote {path}')


if __name__ == '__main__':
    start_tool()
    main()
