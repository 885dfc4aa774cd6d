"""The pictures of a table: gain of each row, and curves."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from cakd_mm.visualization.history import mean_curve
from cakd_mm.visualization.paired_statistics import Difference

from .tables import STUDENT

FAR = 4  # A row that reaches so many times as far as the median row is not drawn.


def plot_gain(summary: Mapping, title: str, path: Path) -> None:
    """Draw each row's gain over the plain student with its interval."""
    pairs = summary['pairs']
    figure, axes = plt.subplots(
        len(pairs), figsize=(7, 1 + 0.32 * _rows(pairs)), squeeze=False
    )
    for axis, pair in zip(axes[:, 0], pairs, strict=True):
        found = {
            name: row['over'][STUDENT]
            for name, row in pair['rows'].items()
            if STUDENT in row['over']
        }
        names = list(found)[::-1]
        reach = {name: abs(x['mean']) + (x['half'] or 0) for name, x in found.items()}
        limit = FAR * median(reach.values()) if reach else 1.0
        for place, name in enumerate(names):
            x = found[name]
            if reach[name] > limit:  # Its scale would hide the others.
                text = f'{Difference(**x)}, not drawn'
                axis.annotate(text, (0, place), ha='center', va='center', zorder=3)
                continue
            style = dict(fmt='o', capsize=3, color='C0')
            if x['half'] is None:  # One seed has no interval and a hollow mark.
                style.update(markerfacecolor='white')
            axis.errorbar(x['mean'], place, xerr=x['half'], **style)
        axis.set_yticks(range(len(names)), names)
        axis.axvline(0, color='grey', linewidth=0.8)
        axis.grid(axis='x', alpha=0.3)
        axis.set_title(pair['title'], fontsize=10)
    axes[-1, 0].set_xlabel(
        'points over the plain student, 95 % interval; hollow: one seed'
    )
    _save(figure, title, path)


def plot_curves(summary: Mapping, title: str, path: Path) -> None:
    """Draw the mean top-1 of each row by epoch."""
    pairs = summary['pairs']
    figure, axes = plt.subplots(
        len(pairs), figsize=(9.5, 4.4 * len(pairs)), squeeze=False
    )
    for axis, pair in zip(axes[:, 0], pairs, strict=True):
        for number, (name, row) in enumerate(pair['rows'].items()):
            curve = mean_curve(list(row['curves'].values()))
            if not curve:
                continue
            epochs, average = map(list, zip(*curve, strict=True))
            style = ('-', '--', ':')[number // 10 % 3]
            axis.plot(epochs, average, style, label=f'{name}: {average[-1]:.2f}')
        axis.set(xlabel='epoch', ylabel='top-1 (%)')
        axis.set_title(pair['title'], fontsize=10)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5))
    _save(figure, title, path)


def _save(figure, title: str, path: Path) -> None:
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _rows(pairs) -> int:
    return sum(3 + len(pair['rows']) for pair in pairs)
