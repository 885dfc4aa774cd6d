"""The page of a table, in Markdown."""

import re
from collections.abc import Callable, Mapping

from cakd_mm.visualization.paired_statistics import Difference

from .budget import SPEEDS
from .tables import KD, STUDENT

# Whatever Markdown or HTML would read as more than text; `_` in a word is text.
_MARKUP = re.compile(
    r'[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])'
    r'|(?<=:)//|(?<=www)\.|(?<=\S)@(?=\S)'  # addresses become links
)

METHOD = (
    'Top-1 in percent after the last epoch, never the best; differences are paired '
    'by seed, on the seeds that both rows have, with 95 % t intervals.'
)


def inline(text: str) -> str:
    """Return text that stands for itself in a line of Markdown.

    It comes from logs and from json that others may have written.
    """
    line = ' '.join(text.split()).encode('utf-8', 'backslashreplace').decode()
    printable = ''.join(x for x in line if x.isprintable())
    return _MARKUP.sub(lambda found: ''.join(f'\\{x}' for x in found[0]), printable)


def heading(table: str, summary: Mapping) -> str:
    """Return the title; another budget, or another set of images, is part of it."""
    name = f'Table {table}' if table.isupper() else f'Table "{table}"'
    if summary['held_out']:
        name += ', students scored on held-out training images'
    short = [pair for pair in summary['pairs'] if pair['epochs'] != pair['recipe']]
    if not short:
        return name
    budget = ', '.join(
        sorted({f'{pair["epochs"]} of {pair["recipe"]} epochs' for pair in short})
    )
    return f'{name}, scaled: {budget}'


def page(table: str, summary: Mapping, command: str, pictures: Mapping) -> str:
    """Return the whole page.

    Args:
        table (str): Its name.
        summary (Mapping): See :func:`summary.summarise`.
        command (str): What made it.
        pictures (Mapping): File name of each picture by its title.
    """
    lines = [
        f'# {heading(table, summary)}',
        '',
        METHOD,
        '',
        provenance(summary, inline),
        '',
        '```bash',
        command,
        '```',
    ]
    for pair in summary['pairs']:
        lines += ['', f'## {pair["title"]}', '', *_pair(pair)]
    for title, file in pictures.items():
        lines += ['', f'![{title}]({file})']
    return '\n'.join(lines) + '\n'


def provenance(summary: Mapping, text: Callable[[str], str] = str) -> str:
    """Say how complete a table is, and what it was made with.

    Args:
        summary (Mapping): See :func:`summary.summarise`.
        text (Callable): What a text from a log goes through. Defaults to nothing.
    """
    missing = summary['planned'] - summary['finished']
    versions = '; '.join(
        ', '.join(f'{k} {v}' for k, v in found.items()) for found in summary['versions']
    )
    return (
        f'{summary["finished"]} of {summary["planned"]} runs finished'
        + (f', {missing} missing: this page is not complete' if missing else '')
        + f'. {SPEEDS[summary["speed"]]}. {summary["hours"]} process hours on '
        f'{text(" and ".join(summary["machines"]))}{_threads(summary)}. Commit '
        f'{text(", ".join(summary["commits"]))}; {text(versions)}.'
    )


def _threads(summary: Mapping) -> str:
    found = summary['threads']
    if not found:
        return ''
    return f', {" and ".join(map(str, found))} thread(s) a process'


def _pair(pair: Mapping) -> list[str]:
    head, rows = table_of(pair)
    lines = [teacher_of(pair, inline), '']
    lines += ['| ' + ' | '.join(head) + ' |', '|' + ' --- |' * len(head)]
    lines += ['| ' + ' | '.join(cells) + ' |' for cells in rows]
    lines.append('')
    for name, row in pair['rows'].items():
        for seed, reason in row['failed'].items():
            lines.append(f'- **Failed: {name}, seed {seed}**: {inline(reason)}')
    lines += [f'- {sentence}' for sentence in pair['sentences']]
    return lines


def table_of(pair: Mapping) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a pair's table."""
    scaled = pair['epochs'] != pair['recipe']
    published = any(row['published'] is not None for row in pair['rows'].values())
    head = ['row', 'seeds', 'top-1', 'over the student']
    if KD in pair['rows']:
        head.append('over KD')
    if published and scaled:
        head.append(f'paper, at {pair["recipe"]} epochs: not comparable')
    elif published:
        head += ['paper', 'ours - paper']
    rows = []
    for name, row in pair['rows'].items():
        cells = [name, f'{len(row["scores"])} of {row["planned"]}', _score(row)]
        cells.append(_over(row, STUDENT))
        if KD in pair['rows']:
            cells.append(_over(row, KD))
        if published:
            cells.append('' if row['published'] is None else f'{row["published"]:.2f}')
        if published and not scaled:
            both = row['mean'] is not None and row['published'] is not None
            cells.append(f'{row["mean"] - row["published"]:+.2f}' if both else '')
        rows.append(cells)
    return head, rows


def teacher_of(pair: Mapping, text: Callable[[str], str] = str) -> str:
    """Say what taught, in Markdown; see :func:`provenance` for ``text``."""
    teacher, scaled = pair['teacher'], pair['epochs'] != pair['recipe']
    if teacher['failed']:
        return f'**The teacher failed**: {text(teacher["failed"])}'
    if teacher['top1'] is None:
        return 'The teacher is not finished.'
    sentence = f'Teacher: {teacher["top1"]:.2f} %'
    if teacher['given']:
        sentence += f', from {text(teacher["given"])}'
    else:
        sentence += f', trained for {pair["epochs"]} epochs, seed 0'
    if teacher['published'] is not None:
        note = f' at {pair["recipe"]} epochs' if scaled else ''
        sentence += f' (paper: {teacher["published"]:.2f}{note})'
    return sentence + '.'


def _score(row: Mapping) -> str:
    if row['mean'] is None:
        return 'failed' if row['failed'] else 'not run'
    spread = '' if row['std'] is None else f' ± {row["std"]:.2f}'
    return f'{row["mean"]:.2f}{spread}'


def _over(row: Mapping, base: str) -> str:
    found = row['over'].get(base)
    if not found:
        return ''
    some = 1 < found['pairs'] < row['planned']
    return str(Difference(**found)) + (f' ({found["pairs"]} seeds)' if some else '')
