"""images.png: where in an image the strongest channels are active."""

import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from .observe import Observation


def strongest_channels(scores: Tensor, count: int) -> list[int]:
    """Return the ``count`` channels of the highest scores, (C,), highest first."""
    return scores.argsort(descending=True, stable=True)[:count].tolist()


def verdict(logits: Tensor, labels: list[int], names: list[str]) -> tuple[str, bool]:
    """Return the teacher's prediction with its probability, and if it is right."""
    several = len(labels) > 1
    probability, best = (logits.sigmoid() if several else logits.softmax(-1)).max(-1)
    text = f'teacher: {names[best]:.14}, {100 * probability:.1f} %'
    return text, int(best) in labels


def _verdict(found: Observation, place: int, names: list[str]) -> tuple[str, bool]:
    if found.logits is None:
        return 'the teacher does not say', True
    return verdict(found.logits[place], found.labels[place], names)


def draw_images(found: Observation, names: list[str], count: int, title: str) -> Figure:
    """Draw images beside the maps of their strongest channels and their clusters.

    Args:
        found: What the loss made of the images, with pictures.
        names: The names of all classes.
        count: How many channels are shown of each image, if there are maps.
        title: Which loss and checkpoint it was.
    """
    images = len(found.indices)
    errs = not all(_verdict(found, place, names)[1] for place in range(images))
    legend = 'bar, channels by number: red strong, grey weak'
    size = 9.75, 2 * images + 0.8
    if found.maps is not None:
        legend += ', dots: the channels shown'
        size = max(1.75 * (count + 1) + 1, 9), 2.8 * images + 0.8
    legend += '; red title: the teacher errs' if errs else ''
    figure = Figure(figsize=size, layout='constrained')
    figure.suptitle(f'{title}\nscore: {found.score}\n{legend}', fontsize=10)
    rows = figure.subfigures(images, 1, squeeze=False)[:, 0]
    for place, row in enumerate(rows):
        draw_row(row, found, place, names, count)
    return figure


def draw_row(
    row: SubFigure, found: Observation, place: int, names: list[str], count: int
) -> None:
    """Draw one image, the maps if there are any, and the clusters."""
    if found.maps is None:
        grid = row.add_gridspec(3, 2, width_ratios=(1, 4), height_ratios=(4, 1, 4))
        draw_image(row.add_subplot(grid[:, 0]), found, place, names)
        draw_strip(row.add_subplot(grid[1, 1]), found.strong[place], [])
        return
    scores = found.scores[place]
    shown = strongest_channels(scores, count)
    grid = row.add_gridspec(2, count + 1, height_ratios=(9, 1))
    draw_image(row.add_subplot(grid[0, 0]), found, place, names)
    cells = [row.add_subplot(grid[0, column + 1]) for column in range(count)]
    titles = [f'channel {x}\nscore {scores[x].item():.3g}' for x in shown]
    draw_maps(row, cells, found.images[place], found.maps[place, shown], titles)
    draw_strip(row.add_subplot(grid[1, 1:]), found.strong[place], shown)


def draw_image(axis: Axes, found: Observation, place: int, names: list[str]) -> None:
    """Draw an image under its class and what the teacher takes it for."""
    axis.imshow(found.images[place])
    labels = found.labels[place]
    text, right = _verdict(found, place, names)
    own = ', '.join(names[label] for label in labels)[:22]
    title = f'image {found.indices[place]}\nclass: {own}\n{text}'
    axis.set_title(title, fontsize=8, color='black' if right else 'C3')
    axis.set_axis_off()


def draw_maps(
    row: SubFigure,
    cells: list[Axes],
    image: np.ndarray,
    maps: Tensor,
    titles: list[str],
) -> None:
    """Lay each channel's map, (C, H, W) in all, over the image, on one scale."""
    size = image.shape[:2]
    maps = F.interpolate(maps[None], size, mode='bilinear', align_corners=False)[0]
    low, high = min(0.0, maps.min().item()), max(maps.max().item(), 1e-6)
    for cell, title, heat in zip(cells, titles, maps, strict=True):
        cell.imshow(image.mean(-1), cmap='gray', vmin=0, vmax=1)
        drawn = cell.imshow(heat, cmap='inferno', alpha=0.65, vmin=low, vmax=high)
        cell.set_title(title, fontsize=8)
        cell.set_axis_off()
    bar = row.colorbar(drawn, ax=cells, fraction=0.02, pad=0.01)
    bar.set_label('activation', fontsize=8)
    bar.ax.tick_params(labelsize=7)


def draw_strip(axis: Axes, strong: Tensor, shown: list[int]) -> None:
    """Draw which of (C,) channels are strong, with a dot at those shown."""
    colours = ListedColormap(['0.8', 'C3'])
    axis.imshow(strong[None], aspect='auto', cmap=colours, vmin=0, vmax=1)
    axis.set_yticks([])
    axis.tick_params(labelsize=7)
    axis.plot(shown, [0] * len(shown), 'k.', markersize=4)
