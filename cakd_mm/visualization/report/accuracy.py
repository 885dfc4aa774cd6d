"""The tab of top-1 over the epochs."""

from collections.abc import Sequence
from math import isfinite
from statistics import mean, stdev

from ..sweep import DASH, LATE, SweptRun
from .blocks import Block, Plot, Tab, Table, Text
from .entries import Entry
from .lines import axes, lines_of, seeded

AXIS = 'top-1 (%)'


def accuracy_tab(entries: Sequence[Entry]) -> Tab:
    """Return plots and a table of top-1; of runs without a score a sentence."""
    runs = [run for entry in entries for run in entry.group.runs if run.scores]
    blocks: list[Block] = []
    if not runs:
        text = 'No run has a top-1 of validation yet.'
        return Tab('Accuracy', [Text(text)])
    traces = [trace for entry in entries for trace in score_lines(entry)]
    unit = ' or '.join(sorted({run.unit for run in runs}))
    note = (
        'A line is the mean over the finished runs of a config, one for each seed. Its '
        'band goes from the lowest to the highest seed.'
    )
    if not all(run.finished for run in runs):
        note += ' A dotted line is a single run that is not finished.'
    blocks.append(
        Plot('Top-1 on the validation images', traces, axes(unit, AXIS), note)
    )
    late = late_part(runs)
    if late is not None:
        (left, right), (low, high) = late
        layout = axes(unit, AXIS)
        layout['xaxis']['range'], layout['yaxis']['range'] = [left, right], [low, high]
        blocks.append(Plot('The last part of it', traces, layout))
    blocks.append(score_table(entries))
    return Tab('Accuracy', blocks)


def score_lines(entry: Entry) -> list[dict]:
    """Return the mean of the finished runs, and each unfinished run by itself."""
    traces = []
    for runs, dash in (
        (entry.group.finished, 'solid'),
        *(([run], 'dot') for run in entry.group.unfinished),
    ):
        curves = [(run.shown_seed, sorted(run.scores.items())) for run in runs]
        if any(curve for _, curve in curves):
            unit = runs[0].unit.removesuffix('s')
            own = (entry.label, entry.colour, unit, '.2f', dash)
            traces += lines_of(seeded(curves), *own)
    return traces


def late_part(
    runs: Sequence[SweptRun],
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the ranges of x and y that show the last part of all runs.

    None if it has fewer than three scores, or if it is all there is.
    """
    end = max(run.end for run in runs)
    start = LATE * min(run.end for run in runs)
    found = [
        y for run in runs for x, y in run.scores.items() if x >= start and isfinite(y)
    ]
    places = {x for run in runs for x in run.scores if x >= start}
    before = any(x < start for run in runs for x in run.scores)
    if len(places) < 3 or not before or not found:
        return None
    margin = 0.05 * (max(found) - min(found)) or 0.5
    return (start, end + 0.02 * end), (min(found) - margin, max(found) + margin)


def score_table(entries: Sequence[Entry]) -> Table:
    """Return the last and the best score of each config."""
    rows = []
    for entry in entries:
        group = entry.group
        if group.finished:
            best = [max(run.scores.values()) for run in group.finished]
            seeds = ', '.join(run.shown_seed for run in group.finished)
            length = str(group.finished[0].length)
            rows.append([entry.label, seeds, length, group.result, spread(best)])
        for run in group.unfinished:
            scores = run.scores.values()
            last = f'{run.top1:.2f}' if scores else 'no top-1'
            best_one = f'{max(scores):.2f}' if scores else DASH
            part = f'{run.end} of {run.length}{", unfinished" if scores else " scored"}'
            rows.append([entry.label, run.shown_seed, part, last, best_one])
    units = sorted({run.unit for entry in entries for run in entry.group.runs})
    caption = (
        'Top-1 in percent, mean ± standard deviation over the seeds. The best score of '
        'a run is chosen on the images that it is scored on, so it is too high. Report '
        'the last one.'
    )
    head = ['config', 'seeds', ' or '.join(units), 'last', 'best of each run']
    return Table(head, rows, caption)


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation; of one value itself."""
    deviation = f' ± {stdev(values):.2f}' if len(values) > 1 else ''
    return f'{mean(values):.2f}{deviation}'
