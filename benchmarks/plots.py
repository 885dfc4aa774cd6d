"""Draw the results of the benchmarks for research/docs/speed.md.

python benchmarks/plots.py
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from common import RESULTS, ROOT

PICTURES = ROOT / 'docs' / 'pictures'


def read(name: str) -> dict:
    """Return the results of a benchmark."""
    return json.loads((RESULTS / f'{name}.json').read_text(encoding='utf-8'))


def bars(axis, rows: list[dict], title: str) -> None:
    """Draw how much faster each variant is, with the quartiles of the rounds."""
    rows = rows[::-1]
    ratios = [row['faster'] for row in rows]
    spread = [
        [abs(row['faster'] - edge) for row, edge in zip(rows, edges, strict=True)]
        for edges in zip(*(row['faster_quartiles'] for row in rows), strict=True)
    ]
    names = [row['variant'] for row in rows]
    axis.barh(names, ratios, xerr=spread, color='tab:blue', ecolor='0.4')
    axis.axvline(1, color='0.5', linewidth=0.8)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel('times as fast')


def lines(axis, series: dict[str, list[dict]], label: str) -> None:
    """Draw milliseconds over a size, a line per variant."""
    sizes = [int(size) for size in series]
    for index, first in enumerate(next(iter(series.values()))):
        times = [rows[index]['median_ms'] for rows in series.values()]
        axis.plot(sizes, times, marker='o', label=first['variant'])
    axis.set(xscale='log', yscale='log', xlabel=label, ylabel='ms, there and back')


def draw(name: str, figure) -> Path:
    """Write a figure into the docs' pictures."""
    path = PICTURES / f'{name}.png'
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def main() -> None:
    figure, axes = plt.subplots(2, 1, figsize=(8, 6), layout='constrained')
    step = read('end_to_end_r56_r20')['batch_sizes']['64']
    bars(axes[0], step, 'whole step, resnet56 to resnet20, batch 64')
    teacher = read('teacher')['teachers']['resnet56']
    teacher = [row for row in teacher if 'memo' not in row['variant']]
    bars(axes[1], teacher, "the teacher's forward pass, resnet56, batch 64")
    print(draw('speed_steps', figure))

    growth = read('loss_growth')
    names = dict(classes='classes', channels='channels', layers='layers distilled')
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout='constrained')
    for axis, (name, label) in zip(axes, names.items(), strict=True):
        lines(axis, growth[name], label)
    axes[0].legend(fontsize=8)
    print(draw('speed_growth', figure))


if __name__ == '__main__':
    main()
