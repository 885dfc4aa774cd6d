"""What the commands of a study share: arguments, training, writing down."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..utils.errors import describe
from ..utils.runs import Run, write_json
from ..utils.scheduling import Schedule, bars, slots


def count(text: str) -> int:
    """Read a number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 on')
    return int(text)


def study_parser(description: str | None, work_dir: str) -> argparse.ArgumentParser:
    """Return a parser with what every study takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--jobs', type=count, default=2, help='processes at a time')
    parser.add_argument('--work-dir', type=Path, default=Path(work_dir))
    parser.add_argument('--out', type=Path, default=Path('results'))
    parser.add_argument('--table', action='store_true', help='train nothing')
    return parser


def train_rows(
    teacher: Run, rows: Iterable[Sequence[Run]], jobs: int
) -> dict[str, str]:
    """Train what is missing: the teacher, then all rows of a seed before the next.

    Args:
        teacher (Run): Of all rows.
        rows (Iterable[Sequence[Run]]): The runs of each by seed, as many of each.
        jobs (int): Processes at a time.

    Returns:
        dict[str, str]: Why a run failed, by its name; the others have ended well.
    """
    by_seed = [run for runs in zip(*rows, strict=True) for run in runs]
    with bars() as progress:
        return Schedule([teacher, *by_seed], slots(jobs), progress).run().failed


def check_more(path: Path, finished: int, where: Path) -> None:
    """Refuse to replace what was made from more finished runs.

    Args:
        path (Path): A json file with ``finished``, or none yet.
        finished (int): How many there are now.
        where (Path): The work dir that they are in.

    Raises:
        ValueError: the file has more.
    """
    before = json.loads(path.read_text())['finished'] if path.is_file() else 0
    if before > finished:
        problem = (
            f'{path} has {before} finished runs, {where} {finished}: it is not '
            'replaced.'
        )
        remedy = 'Give another --out, or the --work-dir it was made from.'
        raise ValueError(describe('--out', str(path.parent), problem, remedy))


def write_study(path: Path, summary: dict, where: Path) -> None:
    """Write a study's numbers down, unless there is a file of more finished runs.

    Raises:
        ValueError: see :func:`check_more`.
    """
    check_more(path, summary['finished'], where)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, summary)
