"""images.png: what the strongest channels look at."""

import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from .observe import Seen


def strongest_channels(scores: Tensor, count: int) -> list[int]:
    """Return the ``count`` channels of the highest scores, (C,), highest first."""
    return scores.argsort(descending=True, stable=True)[:count].tolist()


def verdict(logits: Tensor, labels: list[int], names: list[str]) -> tuple[str, bool]:
    """Return the teacher's prediction with its probability, and if it is right."""
    several = len(labels) > 1
    probability, best = (logits.sigmoid() if several else logits.softmax(-1)).max(-1)
    text = f'teacher: {names[best]:.14}, {100 * probability:.1f} %'
    return text, int(best) in labels


def draw_images(seen: Seen, names: list[str], count: int, title: str) -> Figure:
    """Draw images beside the maps of their strongest channels and their clusters.

    Args:
        seen: What the loss saw of the images, with pictures.
        names: The names of all classes.
        count: Maps of each image, if there are any.
        title: What was looked at.
    """
    errs = not all(
        verdict(*pair, names)[1] for pair in zip(seen.logits, seen.labels, strict=True)
    )
    legend = 'bar, channels by number: red strong, grey weak'
    legend += '' if seen.maps is None else ', dots: the channels shown'
    legend += '; red title: the teacher errs' if errs else ''
    images = len(seen.indices)
    if seen.maps is None:
        size = 9.75, 2 * images + 0.8
    else:
        size = max(1.75 * (count + 1) + 1, 9), 2.8 * images + 0.8
    figure = Figure(figsize=size, layout='constrained')
    figure.suptitle(f'{title}\nscore: {seen.score}\n{legend}', fontsize=10)
    rows = figure.subfigures(images, 1, squeeze=False)[:, 0]
    for place, row in enumerate(rows):
        draw_row(row, seen, place, names, count)
    return figure


def draw_row(
    row: SubFigure, seen: Seen, place: int, names: list[str], count: int
) -> None:
    """Draw one image, the maps if there are any, and the clusters."""
    shown = strongest_channels(seen.scores[place], count)
    if seen.maps is None:
        ratios = dict(width_ratios=(1, 4), height_ratios=(4, 1, 4))
        grid = row.add_gridspec(3, 2, **ratios)
        draw_image(row.add_subplot(grid[:, 0]), seen, place, names)
        draw_strip(row.add_subplot(grid[1, 1]), seen.strong[place], [])
        return
    grid = row.add_gridspec(2, count + 1, height_ratios=(9, 1))
    draw_image(row.add_subplot(grid[0, 0]), seen, place, names)
    cells = [row.add_subplot(grid[0, column + 1]) for column in range(count)]
    draw_maps(row, cells, seen, place, shown)
    draw_strip(row.add_subplot(grid[1, 1:]), seen.strong[place], shown)


def draw_image(axis: Axes, seen: Seen, place: int, names: list[str]) -> None:
    """Draw an image under its class and what the teacher takes it for."""
    axis.imshow(seen.images[place])
    labels = seen.labels[place]
    text, right = verdict(seen.logits[place], labels, names)
    own = ', '.join(names[label] for label in labels)[:22]
    title = f'image {seen.indices[place]}\nclass: {own}\n{text}'
    axis.set_title(title, fontsize=8, color='black' if right else 'C3')
    axis.set_axis_off()


def draw_maps(
    row: SubFigure, cells: list[Axes], seen: Seen, place: int, shown: list[int]
) -> None:
    """Lay each channel's map over the image, all on one scale."""
    image = seen.images[place]
    maps = seen.maps[place, shown][None]
    maps = F.interpolate(maps, image.shape[:2], mode='bilinear', align_corners=False)[0]
    low, high = min(0.0, maps.min().item()), max(maps.max().item(), 1e-6)
    for cell, channel, heat in zip(cells, shown, maps, strict=True):
        cell.imshow(image.mean(-1), cmap='gray', vmin=0, vmax=1)
        drawn = cell.imshow(heat, cmap='inferno', alpha=0.65, vmin=low, vmax=high)
        score = seen.scores[place, channel].item()
        cell.set_title(f'channel {channel}\nscore {score:.3g}', fontsize=8)
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
