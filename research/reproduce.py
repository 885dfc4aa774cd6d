"""Reproduce a whole table: teachers, plain students, every method, several seeds.

Trains through ``tools/train.py``, several runs at a time, and writes page, json and
plots. Can be killed at any point and given again: finished runs are never repeated,
others go on from their newest checkpoint. The tables are ``configs/tables.csv``.
"""

import argparse
import hashlib
import math
import os
import re
import shlex
import time
from pathlib import Path
from tempfile import NamedTemporaryFile

from cakd_mm.engine.launch import check_data, require_utf8
from cakd_mm.utils.errors import describe
from cakd_mm.utils.whole_file import write_whole

from .archive import restore, store
from .budget import SPEEDS
from .html_page import html_page
from .page import heading, page
from .plan import PlannedPair, in_turn, plan
from .plots import plot_curves, plot_gain
from .records import PAGE, read_record
from .runs import Run, read_config, write_json
from .scheduling import Outcome, Schedule, bars, slots
from .summary import summarise
from .tables import read_tables, select

# For two cores: compiling takes longer than Digits does, and bf16 halves the time of
# CIFAR-10.
SPEED = {'digits': 'resident', 'cifar10-mini': 'bf16'}
SEEDS = 3
LONGEST_NAMES = 100  # because a file system takes no name of more than 255 bytes
TRIED = 1 << 20  # bytes: what a disk has to hold before anything is trained


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--table', required=True, choices=list(read_tables()))
    parser.add_argument('--pairs', nargs='+', help='such as r56_r20; default: all')
    parser.add_argument('--methods', nargs='+', help='rows beside teacher and student')
    parser.add_argument('--seeds', type=count, help=f'how many; default {SEEDS}')
    parser.add_argument(
        '--first-seed', type=_seed, default=0, help='the least of them; default 0'
    )
    parser.add_argument(
        '--held-out',
        action='store_true',
        help='score students on held-out training images, to choose by',
    )
    parser.add_argument('--epochs', type=count, help='default: the recipe')
    parser.add_argument(
        '--jobs', type=_jobs, default='auto', help="processes at a time, or 'auto'"
    )
    parser.add_argument('--out', type=Path, default=Path('research/results'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/reproduce'))
    parser.add_argument(
        '--speed',
        choices=list(SPEEDS),
        help='see docs/guides/speed.md; default: lossless, but '
        + ', '.join(f'{speed} for {table}' for table, speed in SPEED.items()),
    )
    parser.add_argument('--minutes', type=_time, help='stop by then; give it again')
    parser.add_argument(
        '--archive', type=Path, help='keep finished runs here, and begin with those'
    )
    parser.add_argument('--page', action='store_true', help='train nothing')
    parser.add_argument(
        '--quick',
        action='store_true',
        help="a trial: 3 epochs, 1 seed, the first pair's first row of CAKD",
    )
    args = parser.parse_args(arguments)
    args.full_speed = SPEED.get(args.table, 'lossless')
    args.speed = args.speed or args.full_speed
    if args.quick:
        for name in ('epochs', 'seeds', 'methods', 'pairs'):
            if getattr(args, name) is not None:
                parser.error(f'--quick has its own --{name}; leave out one of the two')
        pair = select(args.table)[0]
        cakd = next(row.name for row in pair.rows if row.name.startswith('CAKD'))
        vars(args).update(epochs=3, seeds=1, methods=[cakd], pairs=[pair.name])
    args.seeds = args.seeds or SEEDS
    return args


def count(text: str) -> int:
    """Read a number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 on')
    return int(text)


def _seed(text: str) -> int:
    return 0 if text == '0' else count(text)


def _jobs(text: str) -> int | str:
    return text if text == 'auto' else count(text)


def _time(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of minutes')
    return minutes


def finished_before(path: Path) -> int:
    """Return of how many finished runs a page's json file tells; 0 without one.

    Raises:
        ValueError: the file is damaged.
    """
    record = read_record(path, PAGE)
    if record is None:
        problem = f'{path} is damaged, so that nobody knows how many runs it had.'
        remedy = 'Delete it, and its page is written anew, or give another --out.'
        raise ValueError(describe('--out', str(path.parent), problem, remedy))
    return record.get('finished', 0)


def check_writable(folder: Path, key: str) -> None:
    """Make a folder, and try to write to it: a disk may be full or read-only.

    Raises:
        OSError: nothing can be written there.
        ValueError: the name of the folder is no UTF-8.
    """
    require_utf8(folder, key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder) as file:
            file.write(bytes(TRIED))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        problem, remedy = f'Nothing can be written there ({error}).', 'Give another.'
        raise OSError(describe(key, str(folder), problem, remedy)) from error


def check_more(path: Path, finished: int, where: Path) -> None:
    """Refuse to replace a page that was made from more finished runs.

    Args:
        path (Path): The page's json file with ``finished``, or none yet.
        finished (int): How many there are now.
        where (Path): The work dir that they are in.

    Raises:
        ValueError: the file has more.
    """
    before = finished_before(path)
    if before > finished:
        problem = (
            f'{path} has {before} finished runs, {where} {finished}: it is not '
            'replaced.'
        )
        remedy = 'Give another --out, or the --work-dir it was made from.'
        raise ValueError(describe('--out', str(path.parent), problem, remedy))


def check_data_of(planned: list[PlannedPair]) -> None:
    """Stop once, before anything is written, if a pair's data is not there.

    Raises:
        FileNotFoundError: naming the folder.
    """
    for pair in planned:
        teacher_config = read_config(pair.teacher.config)
        check_data(teacher_config, ('train', 'val'), by_option=False)


def train(runs: list[Run], args: argparse.Namespace) -> Outcome:
    """Train what is missing."""
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else None
    with bars() as progress:
        return Schedule(runs, slots(args.jobs), progress, deadline).run()


def name_of(args: argparse.Namespace, planned: list[PlannedPair]) -> str:
    """Return the name that a selection's files share: another has another."""
    parts = ['table', args.table, *(args.pairs or [])]
    methods = args.methods or []
    names = '_'.join(methods)
    if len(names) > LONGEST_NAMES:
        digest = hashlib.sha256(names.encode()).hexdigest()[:8]
        methods = [f'{len(methods)} methods', digest]
    parts += methods
    if any(pair.epochs != pair.recipe for pair in planned):
        parts.append(f'{args.epochs}e')
    if args.seeds != SEEDS:
        parts.append(f'{args.seeds}s')
    if args.first_seed:
        parts.append(f'from{args.first_seed}')
    if args.held_out:
        parts.append('held-out')
    if args.speed != args.full_speed:
        parts.append(args.speed)
    # Spaces, commas and colons in the names of methods become dashes.
    return '_'.join(re.sub(r'[^\w.-]+', '-', part) for part in parts)


def command_of(args: argparse.Namespace) -> str:
    """Return what has to be given to make the same table again."""
    words = ['--table', args.table]
    for name in ('pairs', 'methods'):
        if getattr(args, name):
            words += [f'--{name}', *getattr(args, name)]
    if args.epochs:
        words += ['--epochs', str(args.epochs)]
    words += ['--seeds', str(args.seeds), '--speed', args.speed]
    if args.first_seed:
        words += ['--first-seed', str(args.first_seed)]
    if args.held_out:
        words.append('--held-out')
    return f'python tools/reproduce.py {shlex.join(words)}'


def write(args: argparse.Namespace, planned: list[PlannedPair]) -> Path:
    """Write json, pages and plots; return the path of the page in Markdown.

    Raises:
        ValueError: there is a page of more finished runs, or a run is none of this
            table's, see :meth:`Run.check`.
    """
    for run in in_turn(planned):
        run.check()
    summary = summarise(planned, args.speed, args.held_out)
    command = command_of(args)
    title = heading(args.table, summary)
    args.out.mkdir(parents=True, exist_ok=True)
    name = name_of(args, planned)
    content = args.out / f'{name}.json'
    check_more(content, summary['finished'], args.work_dir)
    write_json(content, dict(table=args.table, title=title, command=command, **summary))
    plots = dict(gain=plot_gain, curves=plot_curves)
    pictures = {kind: f'{name}_{kind}.png' for kind in plots}
    path = args.out / f'{name}.md'
    path.write_text(page(args.table, summary, command, pictures), encoding='utf-8')
    for kind, plot in plots.items():
        plot(summary, title, args.out / pictures[kind])
    try:
        in_browser = html_page(title, summary, command)
        write_whole(path.with_suffix('.html'), in_browser)
    except ModuleNotFoundError as error:  # A machine without a network may lack Plotly.
        print(f'{path} is written without its .html. {error}')
    return path


def main() -> None:
    """Reproduce a table."""
    args = parse_args()
    pairs = select(args.table, args.pairs, args.methods)
    planned = plan(
        pairs,
        args.seeds,
        args.work_dir,
        args.speed,
        args.epochs,
        args.first_seed,
        args.held_out,
    )
    runs = in_turn(planned)
    if not args.page:
        check_data_of(planned)
        for name in ('work_dir', 'archive'):
            if getattr(args, name):
                check_writable(getattr(args, name), f'--{name.replace("_", "-")}')
    check_writable(args.out, '--out')
    finished_before(args.out / f'{name_of(args, planned)}.json')
    if args.archive:
        taken = restore(runs, args.work_dir, args.archive)
        print(f'{taken} finished runs taken from {args.archive}')
    try:
        outcome = Outcome() if args.page else train(runs, args)
    finally:  # The archive is also written when training is interrupted.
        if args.archive:
            store(runs, args.work_dir, args.archive)
    for name, reason in outcome.failed.items():
        print(f'{name} failed: {reason}')
    try:
        print(write(args, planned).read_text(encoding='utf-8'))
    except ValueError as error:
        # A call that ran out of time may have fewer runs. A later one has as many.
        if not outcome.out_of_time:
            raise
        print(error)
    if outcome.out_of_time:
        print('Out of time: give the same command again to go on.')
    if outcome.failed:
        raise SystemExit(f'{len(outcome.failed)} run(s) failed')
