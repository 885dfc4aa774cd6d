"""Reproduce a whole table: teachers, plain students, every method, several seeds.

Trains through ``tools/train.py``, several runs at a time, and writes page, json and
plots. Can be killed at any point and given again: finished runs are never repeated,
others go on from their newest checkpoint. The tables are ``configs/tables.csv``.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
from cakd_mm.reproduction.budget import SPEEDS
from cakd_mm.reproduction.page import heading, page
from cakd_mm.reproduction.plan import in_turn, plan
from cakd_mm.reproduction.plots import plot_curves, plot_gain
from cakd_mm.reproduction.summary import summarise
from cakd_mm.reproduction.tables import read_tables, select
from cakd_mm.utils.runs import write_whole
from cakd_mm.utils.scheduling import Outcome, Schedule, slots

# Two cores: compiling takes longer than Digits, and bf16 halves CIFAR-10's time.
SPEED = {'digits': 'resident', 'cifar10-mini': 'bf16'}
QUICK = dict(epochs=4, seeds=2, methods=['CAKD logit'])


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--table', required=True, choices=list(read_tables()))
    parser.add_argument('--pairs', nargs='+', help='such as r56_r20; default: all')
    parser.add_argument('--methods', nargs='+', help='rows beside teacher and student')
    parser.add_argument('--seeds', type=int, default=3, help='how many, from 0')
    parser.add_argument('--epochs', type=int, help='default: the recipe')
    parser.add_argument('--jobs', default='auto', help="processes at a time, or 'auto'")
    parser.add_argument('--out', type=Path, default=Path('results'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/reproduce'))
    parser.add_argument(
        '--speed', choices=SPEEDS, help='see docs/speed.md; default: lossless'
    )
    parser.add_argument('--minutes', type=float, help='stop by then; give it again')
    parser.add_argument('--page', action='store_true', help='train nothing')
    parser.add_argument(
        '--quick', action='store_true', help='4 epochs, 2 seeds, one method: a trial'
    )
    args = parser.parse_args(arguments)
    if args.quick:
        vars(args).update(QUICK)
    args.speed = args.speed or SPEED.get(args.table, 'lossless')
    args.jobs = args.jobs if args.jobs == 'auto' else int(args.jobs)
    return args


def train(runs: list, args: argparse.Namespace) -> Outcome:
    """Train what is missing."""
    columns = (TextColumn('{task.description:<42}'), BarColumn())
    columns += (TextColumn('{task.completed}/{task.total} epochs'), TimeElapsedColumn())
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else None
    with Progress(*columns, console=Console()) as progress:
        return Schedule(runs, slots(args.jobs), progress, deadline).run()


def name_of(args: argparse.Namespace) -> str:
    """Return the name that the table's files share."""
    parts = [f'table_{args.table}', *(args.pairs or [])]
    if args.epochs:
        parts.append(f'{args.epochs}e')
    return '_'.join(parts)


def write(args: argparse.Namespace, planned: list, failed: dict, command: str) -> Path:
    """Write page, json and plots; return the page's path."""
    summary = summarise(planned, failed)
    title = heading(args.table, summary)
    args.out.mkdir(parents=True, exist_ok=True)
    name = name_of(args)
    pictures = {}
    for kind, plot in (('gain', plot_gain), ('curves', plot_curves)):
        file = args.out / f'{name}_{kind}.png'
        plot(summary, title, file)
        pictures[kind] = file.name
    content = dict(table=args.table, title=title, command=command, **summary)
    write_whole(args.out / f'{name}.json', content)
    path = args.out / f'{name}.md'
    path.write_text(page(args.table, summary, command, pictures))
    return path


def main() -> None:
    """Reproduce a table."""
    args = parse_args()
    pairs = select(args.table, args.pairs, args.methods)
    planned = plan(pairs, args.seeds, args.work_dir, args.speed, args.epochs)
    outcome = Outcome()
    if not args.page:
        outcome = train(in_turn(planned), args)
    command = f'python tools/reproduce.py {shlex.join(sys.argv[1:])}'
    path = write(args, planned, outcome.failed, command)
    print(path.read_text())
    if outcome.out_of_time:
        print('Out of time: give the same command again to go on.')
    if outcome.failed:
        raise SystemExit(f'{len(outcome.failed)} runs failed, see {path}')


if __name__ == '__main__':
    main()
