"""Curves of one run, or of several seeds with a band, as Plotly's json has them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import mean
from textwrap import wrap
from typing import Any

Curve = Sequence[tuple[float, float]]  # (x, y)
MOST_POINTS = 300  # of a curve: more cannot be told apart on a screen
MARKED = 60  # A curve of fewer points shows where they are.
# They can be told from each other on white and on dark grey.
COLOURS = (
    '#2f7fc9',
    '#d9722e',
    '#2f9e6e',
    '#c2528b',
    '#8a6fd1',
    '#b08a1e',
    '#3aa3b5',
    '#d04a4a',
    '#6b8f3a',
    '#8c6d5a',
    '#5f63d1',
    '#d67fa6',
    '#8a9a2b',
    '#7b8794',
)


@dataclass(frozen=True)
class Seeded:
    """A curve of each seed, where all of them have a point.

    Attributes:
        seeds: The names of the seeds.
        x: The places that all curves have.
        values: The values at each place, in the order of the seeds.
    """

    seeds: Sequence[str]
    x: list[float]
    values: list[list[float]]

    @property
    def means(self) -> list[float]:
        """The mean over the seeds at each place."""
        return [mean(found) for found in self.values]


def seeded(curves: Sequence[tuple[str, Curve]]) -> Seeded:
    """Join the curves of several seeds, each with the seed's name."""
    by_x = [dict(curve) for _, curve in curves]
    common = sorted(set.intersection(*map(set, by_x))) if by_x else []
    step = math.ceil(len(common) / MOST_POINTS) or 1
    # Counted from the end, because the last value is the one that is looked at.
    shown = common[::-1][::step][::-1]
    values = [[curve[x] for curve in by_x] for x in shown]
    return Seeded([name for name, _ in curves], shown, values)


def as_text(text: str, width: int = 44) -> str:
    """Return text as Plotly has to get it: it reads tags, and breaks no lines."""
    return '<br>'.join(escape(line, quote=False) for line in wrap(text, width))


def finite(values: Sequence[float]) -> list[float | None]:
    """Return values for json, which has no nan: a curve has a gap there."""
    return [value if math.isfinite(value) else None for value in values]


def lines_of(
    curve: Seeded, label: str, colour: str, unit: str, digits: str, dash: str = 'solid'
) -> list[dict[str, Any]]:
    """Return the line of the means, and the band from the lowest to the highest seed.

    Args:
        curve: The values.
        label: What the line is, also its entry in the legend.
        colour: Its colour, ``'#rrggbb'``.
        unit: What x counts: ``'epoch'``.
        digits: The format of the values: ``'.2f'``.
        dash: The style of the line. Defaults to ``'solid'``.
    """
    several = len(curve.seeds) > 1
    hover = []
    for x, value, own in zip(curve.x, curve.means, curve.values, strict=True):
        each = [
            f'seed {s}: {v:{digits}}' for s, v in zip(curve.seeds, own, strict=True)
        ]
        middle = f'mean {value:{digits}}' if several else ''
        parts = [label, f'{unit} {x:.6g}', middle, ', '.join(each)]
        hover.append('<br>'.join(as_text(part) for part in parts if part))
    line: dict[str, Any] = dict(
        type='scatter',
        mode='lines+markers' if len(curve.x) < MARKED else 'lines',
        x=curve.x,
        y=finite(curve.means),
        text=hover,
        hovertemplate='%{text}<extra></extra>',
        line=dict(color=colour, width=2, dash=dash),
        marker=dict(size=4),
        legendgroup=label,
    )
    if not several:
        return [line]
    kept = [
        (x, min(own), max(own))
        for x, own in zip(curve.x, curve.values, strict=True)
        if all(map(math.isfinite, own))
    ]
    band = dict(
        type='scatter',
        mode='lines',
        x=[x for x, *_ in kept] + [x for x, *_ in kept[::-1]],
        y=[low for _, low, _ in kept] + [high for *_, high in kept[::-1]],
        fill='toself',
        fillcolor=transparent(colour),
        line=dict(width=0),
        hoverinfo='skip',
        legendgroup=label,
    )
    return [band, line]


def transparent(colour: str) -> str:
    """Return a colour through which others are seen."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f'rgba({red},{green},{blue},0.2)'


def axes(x: str, y: str, log: bool = False) -> dict[str, Any]:
    """Return the layout of a plot whose axes have these titles."""
    layout: dict[str, Any] = dict(
        xaxis=dict(title=dict(text=as_text(x))),
        yaxis=dict(title=dict(text=as_text(y, 36), font=dict(size=11))),
    )
    if log:
        layout['yaxis'].update(type='log', dtick=1)
    return layout
