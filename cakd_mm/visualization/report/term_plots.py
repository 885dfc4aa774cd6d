"""The tab of what was logged in training: every term of every loss, and the losses."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...models.term_axis import TermAxis
from ..history import History
from ..term_labels import describe_term
from ..terms import LOG_SPAN, part_name
from .blocks import Block, Heading, Plot, Plots, Tab, Table, Text
from .entries import Entry
from .lines import Curve, Seeded, axes, lines_of, seeded

RUN = 'The whole run'


@dataclass(frozen=True)
class Drawn:
    """A logged value of one config.

    Attributes:
        entry: The config.
        curve: The values of its runs.
        solid: Whether the runs are finished.
    """

    entry: Entry
    curve: Seeded
    solid: bool


def terms_tab(entries: Sequence[Entry]) -> Tab:
    """Return a small plot of each term, with a line for each config that has it."""
    blocks: list[Block] = [
        Text(
            'A plot shows one logged value. It has a line for each config that logs '
            'it: the mean over the finished runs, in a band from the lowest to the '
            'highest seed. A dotted line is a single run that is not finished.'
        )
    ]
    rows = []
    unit = unit_of(entries)
    for title, keys in sections(entries).items():
        plots, zero = [], []
        for key in keys:
            found = [x for entry in entries for x in values_of(entry, key, unit)]
            values = [v for one in found for own in one.curve.values for v in own]
            if not any(values):
                zero.append(name_of(key)[1])
                continue
            plots.append(plot_of(key, found, unit))
            rows += [row_of(key, one) for one in found]
        if plots:
            blocks += [Heading(title), Plots(plots)]
        if zero:
            blocks.append(Text(f'Not drawn, 0 throughout: {", ".join(zero)}.'))
    if not rows:
        return Tab('Terms', [Text('Nothing was logged in training yet.')])
    head = ['value', 'config', 'seeds', 'first', 'last']
    blocks += [Heading('In numbers'), Table(head, rows, 'Means over the seeds.')]
    return Tab('Terms', blocks)


def unit_of(entries: Sequence[Entry]) -> str:
    """Return what x counts in all plots: epochs if those of all runs are known."""
    histories = [run.history for entry in entries for run in entry.group.runs]
    known = all(history.unit == 'epoch' for history in histories if history.train)
    return 'epoch' if known else 'step'


def curve_of(history: History, key: str, unit: str) -> Curve:
    """Return a logged value over what x counts."""
    scale = (history.steps_per_epoch or 1) if unit == 'epoch' else 1
    lines = [line for line in history.train if key in line]
    return [(line['step'] / scale, line[key]) for line in lines]


def sections(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Return the logged keys to show, by the title of their part of the tab."""
    runs = [run for entry in entries for run in entry.group.runs]
    found: dict[str, list[str]] = {}
    for run in runs:
        for short, terms in run.history.terms().items():
            keys = found.setdefault(f'Terms of {short}', [])
            keys += [f'{short}/{x}' for x in terms if f'{short}/{x}' not in keys]
    whole = found.setdefault(RUN, [])
    for run in runs:
        whole += [x for x in run.history.keys if of_run(x) and x not in whole]
    return found


def of_run(key: str) -> bool:
    """Whether a logged value is a part of the training loss, or rules it."""
    sides = ('student.', 'distill.')
    return key in ('loss', 'warmup', 'lr') or (key.startswith(sides) and 'loss' in key)


def name_of(key: str) -> tuple[str, str]:
    """Return the axis and the text of a logged key."""
    _, slash, term = key.partition('/')
    if slash:
        axis, label = describe_term(term)
        return axis.value, label
    if key == 'warmup':
        return TermAxis.FACTOR.value, 'warmup: factor of all distillation losses'
    if key == 'lr':
        return 'learning rate', 'lr: learning rate'
    return 'value in the training loss', part_name(key)


def values_of(entry: Entry, key: str, unit: str) -> Iterator[Drawn]:
    """Yield a logged value of the finished runs, and of each unfinished one."""
    group = entry.group
    for runs, solid in (
        (group.finished, True),
        *(([x], False) for x in group.unfinished),
    ):
        curves = [(x.shown_seed, curve_of(x.history, key, unit)) for x in runs]
        joined = seeded([(seed, curve) for seed, curve in curves if curve])
        if joined.x:
            yield Drawn(entry, joined, solid)


def plot_of(key: str, found: Sequence[Drawn], unit: str) -> Plot:
    """Return the plot of one logged value."""
    axis, label = name_of(key)
    traces: list[dict] = []
    for one in found:
        style = (one.entry.label, one.entry.colour, unit, '.4g')
        traces += lines_of(one.curve, *style, 'solid' if one.solid else 'dot')
    return Plot(label, traces, axes(unit, axis, log=needs_log(found)))


def needs_log(found: Sequence[Drawn]) -> bool:
    """Whether the values are positive and span so much that they need a log axis."""
    values = [v for one in found for own in one.curve.values for v in own]
    values = [value for value in values if math.isfinite(value)]
    return bool(values) and min(values) > 0 and max(values) > LOG_SPAN * min(values)


def row_of(key: str, one: Drawn) -> list[str]:
    """Return the numbers of one line, for those who do not see the plot."""
    means = one.curve.means
    ends = [f'{means[0]:.4g}', f'{means[-1]:.4g}']
    return [name_of(key)[1], one.entry.label, ', '.join(one.curve.seeds), *ends]
