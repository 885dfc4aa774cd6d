"""The page of a table that opens in a browser, without a network."""

import math
from collections.abc import Mapping

from cakd_mm.visualization.paired_statistics import Difference
from cakd_mm.visualization.report.blocks import (
    Block,
    Heading,
    Key,
    Listing,
    Plot,
    Tab,
    Table,
    Text,
)
from cakd_mm.visualization.report.lines import (
    COLOURS,
    as_text,
    axes,
    lines_of,
    seeded,
)
from cakd_mm.visualization.report.page import render

from .page import METHOD, provenance, table_of, teacher_of
from .tables import STUDENT

ROW = 26  # pixels of the gain plot's height that a row takes


def html_page(title: str, summary: Mapping, command: str) -> bytes:
    """Return the whole page.

    Args:
        title (str): Its title, see :func:`page.heading`.
        summary (Mapping): See :func:`summary.summarise`.
        command (str): What made it.

    Raises:
        ModuleNotFoundError: Plotly is not installed.
    """
    pairs = summary['pairs']
    names = dict.fromkeys(name for pair in pairs for name in pair['rows'])
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    tabs = [
        Tab('Table', [block for pair in pairs for block in table_blocks(pair)]),
        Tab('Gain', [gain_plot(pair, colours) for pair in pairs]),
        Tab('Curves', [curves_plot(pair, colours) for pair in pairs]),
        Tab('Seeds', [block for pair in pairs for block in seed_blocks(pair)]),
        Tab('Made with', [Text(provenance(summary)), Text(command)]),
    ]
    legend = [Key(name, colour) for name, colour in colours.items()]
    return render(title, [METHOD], tabs, legend)


def plain(text: str) -> str:
    """Return a sentence of a page in Markdown without what makes parts of it bold."""
    return text.replace('**', '')


def table_blocks(pair: Mapping) -> list[Block]:
    """Return the table of a pair, and what it allows to conclude."""
    head, rows = table_of(pair)
    failed = [
        f'Failed: {name}, seed {seed}: {reason}'
        for name, row in pair['rows'].items()
        for seed, reason in row['failed'].items()
    ]
    return [
        Heading(pair['title']),
        Text(plain(teacher_of(pair))),
        Table(head, rows),
        Listing([*failed, *map(plain, pair['sentences'])]),
    ]


def gain_plot(pair: Mapping, colours: Mapping[str, str]) -> Plot:
    """Return each row's gain over the plain student with its interval."""
    found = {
        name: Difference(**row['over'][STUDENT])
        for name, row in pair['rows'].items()
        if STUDENT in row['over']
    }
    traces = [
        dict(
            type='scatter',
            mode='markers',
            x=[x.mean],
            y=[as_text(name, 24)],
            error_x=dict(type='data', array=[x.half or 0], visible=x.half is not None),
            marker=dict(size=9, color=colours[name]),
            text=[f'{as_text(name)}<br>{as_text(str(x))}, {x.pairs} seed(s)'],
            hovertemplate='%{text}<extra></extra>',
            legendgroup=name,
        )
        for name, x in found.items()
    ]
    layout = axes('points over the plain student', '')
    layout['yaxis'].update(autorange='reversed', type='category')
    layout['height'] = 110 + ROW * max(len(found), 1)
    note = 'The bar is the 95 % interval. A row without a bar has one seed.'
    return Plot(pair['title'], traces, layout, note)


def curves_plot(pair: Mapping, colours: Mapping[str, str]) -> Plot:
    """Return top-1 over the epochs: means over the seeds, in bands."""
    traces: list[dict] = []
    for name, row in pair['rows'].items():
        curves = [
            (str(seed), [(epoch, score) for epoch, score in curve])
            for seed, curve in row['curves'].items()
        ]
        if curves:
            traces += lines_of(seeded(curves), name, colours[name], 'epoch', '.2f')
    note = 'The mean over the seeds, in a band from the lowest to the highest.'
    return Plot(pair['title'], traces, axes('epoch', 'top-1 (%)'), note)


def seed_blocks(pair: Mapping) -> list[Block]:
    """Return the score of each seed of each row."""
    seeds = sorted({seed for row in pair['rows'].values() for seed in row['scores']})
    rows = [
        [name, *(f'{row["scores"].get(seed, math.nan):.2f}' for seed in seeds)]
        for name, row in pair['rows'].items()
    ]
    rows = [[cell.replace('nan', '') for cell in cells] for cells in rows]
    return [Heading(pair['title']), Table(['row', *map(str, seeds)], rows)]
