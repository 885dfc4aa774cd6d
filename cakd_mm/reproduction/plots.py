"""The pictures of a table: gain of each row, and curves."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from .tables import STUDENT


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
        axis.errorbar(
            [found[name]['mean'] for name in names],
            range(len(names)),
            xerr=[_finite(found[name]['half']) for name in names],
            fmt='o',
            capsize=3,
        )
        axis.set_yticks(range(len(names)), names)
        axis.axvline(0, color='grey', linewidth=0.8)
        axis.grid(axis='x', alpha=0.3)
        axis.set_title(pair['title'], fontsize=10)
    axes[-1, 0].set_xlabel('points over the plain student, 95 % interval')
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_curves(summary: Mapping, title: str, path: Path) -> None:
    """Draw the mean top-1 of each row by epoch."""
    pairs = summary['pairs']
    figure, axes = plt.subplots(
        len(pairs), figsize=(7, 4.4 * len(pairs)), squeeze=False
    )
    for axis, pair in zip(axes[:, 0], pairs, strict=True):
        for number, (name, row) in enumerate(pair['rows'].items()):
            curves = list(row['curves'].values())
            if not curves:
                continue
            epochs = [epoch for epoch, _ in curves[0]]
            values = [[value for _, value in curve] for curve in curves]
            average = [mean(column) for column in zip(*values, strict=True)]
            style = ('-', '--', ':')[number // 10 % 3]
            axis.plot(epochs, average, style, label=f'{name}: {average[-1]:.2f}')
        axis.set(xlabel='epoch', ylabel='top-1 (%)')
        axis.set_title(pair['title'], fontsize=10)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7, loc='lower right')
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _rows(pairs) -> int:
    return sum(3 + len(pair['rows']) for pair in pairs)


def _finite(half: float) -> float:
    return half if half == half else 0.0  # one seed has no interval
