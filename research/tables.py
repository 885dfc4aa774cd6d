"""The rows of every table: which config each is, and what was published for it."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cakd_mm.utils.errors import describe, nearest
from cakd_mm.utils.tools import tool

TEACHER, STUDENT, KD = 'teacher', 'student', 'KD'
CONTROL = 'control: '
TITLES = {
    'cifar100': 'CIFAR-100',
    'tinyimagenet': 'Tiny-ImageNet',
    'in1k': 'ImageNet-1k',
    'digits': 'Digits',
    'cifar10-mini': 'CIFAR-10, 10,000 training images',
}


@dataclass(frozen=True)
class Row:
    """One row of a pair.

    Args:
        name (str): ``'teacher'``, ``'student'``, a method, or a method's setting.
        config (Path): Its config.
        published (float, optional): Top-1 in percent. Defaults to None.
        compared_with (tuple[str, ...]): The rows that a protocol compares it with,
            beside the student. Defaults to none: whatever is usual.
    """

    name: str
    config: Path
    published: float | None = None
    compared_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A teacher and a student on a data set, and what is compared on them.

    Args:
        name (str): As in the configs, ``r56_r20``.
        data (str): As in the configs, ``tinyimagenet``.
        rows (tuple[Row]): Teacher and student first.
    """

    name: str
    data: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Pair and data set in words."""
        teacher, student = self.name.split('_')
        return f'{teacher} teaches {student} on {TITLES[self.data]}'

    def row(self, name: str) -> Row:
        """Return the row of that name."""
        return next(row for row in self.rows if row.name == name)


def configs() -> Path:
    """Return the folder of the configs: the checkout's, or the installed one."""
    return tool('train.py').parents[1] / 'configs'


@cache
def read_tables() -> dict[str, list[Pair]]:
    """Return the pairs of every table in ``configs/tables.csv``."""
    folder = configs()
    found: dict[str, dict[tuple[str, str], list[Row]]] = {}
    with (folder / 'tables.csv').open(newline='', encoding='utf-8') as file:
        for line in csv.DictReader(file):
            published = line['published_top1']
            row = Row(
                line['row'],
                folder / line['config'],
                float(published) if published else None,
                tuple(filter(None, line['compared_with'].split(' | '))),
            )
            pairs = found.setdefault(line['table'], {})
            pairs.setdefault((line['pair'], line['data']), []).append(row)
    return {
        table: [Pair(name, data, tuple(rows)) for (name, data), rows in pairs.items()]
        for table, pairs in found.items()
    }


def select(
    table: str,
    pairs: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
) -> list[Pair]:
    """Return a table's pairs, or some of them, with all methods or some.

    Args:
        table (str): ``'I'`` to ``'VII'``, ``'digits'`` or ``'cifar10-mini'``.
        pairs (Sequence[str], optional): Names such as ``r56_r20``. Defaults to all.
        methods (Sequence[str], optional): Rows to keep beside teacher and student,
            whatever their case. Defaults to all.

    Raises:
        ValueError: there is no such table, pair or method.
    """
    tables = read_tables()
    if table not in tables:
        raise _unknown('--table', table, tables)
    chosen = tables[table]
    if pairs:
        known = [pair.name for pair in chosen]
        for name in pairs:
            if name not in known:
                raise _unknown('--pairs', name, known)
        chosen = [pair for pair in chosen if pair.name in pairs]
    if methods:
        wanted = {name.lower() for name in methods}
        rows = {row.name.lower(): row.name for pair in chosen for row in pair.rows}
        for name in wanted - rows.keys():
            raise _unknown('--methods', name, rows.values())
        wanted |= {TEACHER, STUDENT}
        chosen = [
            Pair(
                pair.name,
                pair.data,
                tuple(row for row in pair.rows if row.name.lower() in wanted),
            )
            for pair in chosen
        ]
    return chosen


def method_of(pair: Pair) -> Row:
    """Return any method of a pair, of whatever table, because it names the teacher."""
    return next(
        row
        for pairs in read_tables().values()
        for other in pairs
        if (other.name, other.data) == (pair.name, pair.data)
        for row in other.rows
        if row.name not in (TEACHER, STUDENT)
    )


def _unknown(key: str, value: str, known) -> ValueError:
    problem = f'There is none of that name; like it: {nearest(value, known)}.'
    return ValueError(describe(key, value, problem, 'Write one of configs/tables.csv.'))
