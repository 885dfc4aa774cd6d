"""The tab of the table: means, paired differences, and what they allow to conclude."""

from collections import Counter
from collections.abc import Sequence

from ..conclusions import Comparison, conclude_from
from ..paired_statistics import level
from ..sweep import DASH
from .blocks import Block, Heading, Listing, Tab, Table, Text
from .entries import Entry, references

MOST_PAIRED = 10  # More columns than these nobody reads.


def table_tab(entries: Sequence[Entry]) -> Tab:
    """Return the table of the finished runs, with differences paired by seed."""
    done = [entry for entry in entries if entry.group.finished]
    if not done:
        return Tab('Table', [Text('No run that logs top-1 is finished yet.')])
    compared_with = references(done)
    rows = []
    for entry in done:
        scores = [f'{x.shown_seed}: {x.top1:.2f}' for x in entry.group.finished]
        cells = [entry.label, str(len(scores)), entry.group.result]
        base = compared_with.get(entry.label)
        if compared_with:
            cells += [gain(entry, base), base.label if base else DASH]
        rows.append([*cells, '  '.join(scores)])
    head = ['config', 'seeds', 'last top-1 (%)']
    caption = 'Mean ± standard deviation over the seeds, of the last score of a run.'
    if compared_with:
        head += ['difference', 'to']
        caption += (
            ' Differences are in points, paired by seed, on the seeds that both '
            'have, with 95 % t intervals.'
        )
    blocks: list[Block] = [Table([*head, 'each seed'], rows, caption)]
    blocks += conclusions(done, compared_with)
    if 2 < len(done) <= MOST_PAIRED:
        blocks += [Heading('Each config minus each other'), matrix(done)]
    if notes := notes_on(entries):
        blocks += [Heading('Notes'), Listing(notes)]
    return Tab('Table', blocks)


def gain(entry: Entry, base: Entry | None) -> str:
    """Return a paired difference in words."""
    if base is None or base is entry:
        return DASH
    if base.scored_on != entry.scored_on:
        return 'other images'
    found = entry.over(base)
    return 'no common seed' if found is None else str(found)


def conclusions(done: Sequence[Entry], bases: dict[str, Entry]) -> list[Block]:
    """Say what the differences to each reference allow to conclude."""
    blocks: list[Block] = []
    for base in dict.fromkeys(bases.values()):
        found = {
            entry.label: difference
            for entry in done
            if bases.get(entry.label) is base and (difference := entry.over(base))
        }
        kind = 'the reference' if base.distils else 'the student alone'
        name = f'{kind} ({base.label})'
        if found:
            moves = level(base.curves)
            lines = conclude_from([Comparison(name, found)], name, moves)
            blocks.append(Listing(lines))
    if blocks:
        blocks.insert(0, Heading('What can be concluded'))
    return blocks


def matrix(done: Sequence[Entry]) -> Table:
    """Return the paired difference of every two configs."""
    rows = [[row.label, *(gain(row, base) for base in done)] for row in done]
    caption = (
        'The config of the row minus that of the column, in points. Whoever looks at '
        'many intervals finds one that excludes 0 by chance: one in twenty.'
    )
    return Table(['', *(entry.label for entry in done)], rows, caption)


def notes_on(entries: Sequence[Entry]) -> list[str]:
    """Return what a reader of the table has to know about its runs."""
    lines = []
    for entry in entries:
        for run in entry.group.unfinished:
            why = 'it is not finished' if run.scores else 'its log has no top-1'
            lines.append(f'Left out, because {why}: {run.work_dir}.')
        seeds = Counter(run.seed for run in entry.group.finished)
        for seed, count in seeds.items():
            if seed is None:
                lines.append(
                    f'{entry.label}: {count} run(s) without a seed count in the mean '
                    'and in no difference.'
                )
            elif count > 1:
                lines.append(
                    f'{entry.label}: {count} runs have the seed {seed}. Each counts in '
                    f'the mean; differences take the mean of the {count}.'
                )
    return lines
