"""clusters.png: how often each channel is in the strong cluster, by class."""

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage

from .observe import Observation, shares_by_class


def channel_order(shares: np.ndarray) -> np.ndarray:
    """Order the channels of (K, C) shares so that similar ones are neighbours."""
    # The best order is left out for more channels, because it would take minutes.
    exact = shares.shape[1] <= 512
    tree = linkage(shares.T, 'average', optimal_ordering=exact)
    return leaves_list(tree)


def draw_clusters(found: Observation, names: list[str], title: str) -> Figure:
    """Draw classes x channels: how often a channel is in the strong cluster.

    Args:
        found: What the loss made of many images.
        names: The names of all classes.
        title: Which loss and checkpoint it was.
    """
    by_class = shares_by_class(found.strong, found.labels, len(names)).numpy()
    present = np.isfinite(by_class).all(1)
    by_class = by_class[present]
    names = [name for name, here in zip(names, present, strict=True) if here]
    order = channel_order(by_class)
    overall = found.strong.double().mean(0).numpy()[order]
    chance = found.strong[0].double().mean().item()  # It is the same in every image.
    height = float(np.clip(0.3 * len(names), 2.5, 14))
    width = float(np.clip(0.17 * len(order), 9, 20))
    figure = Figure(figsize=(width, height + 2.6), layout='constrained')
    top, main = figure.subplots(2, 1, sharex=True, height_ratios=(1, height))
    draw_classes(main, by_class[:, order], chance)
    label_axes(main, names, order, most=int(6 * width))
    top.bar(range(len(overall)), overall, width=1, color='0.6')
    top.axhline(chance, color='black', linewidth=1.2)
    top.set(ylim=(0, 1.02), ylabel='all\nimages', yticks=(0, 1))
    always, never = (overall == 1).sum(), (overall == 0).sum()
    counts = f'{always} of {len(order)} channels are always strong, {never} never'
    text = f'{title}\n{len(found.labels)} validation images; {counts}'
    top.set_title(text, fontsize=10)
    return figure


def draw_classes(axis: Axes, shares: np.ndarray, chance: float) -> None:
    """Draw (K, C) shares as colours, white where they are ``chance``."""
    norm = TwoSlopeNorm(chance, 0, 1)
    image = axis.imshow(
        shares, norm=norm, aspect='auto', cmap='RdBu_r', interpolation='none'
    )
    bar = axis.figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01)
    bar.set_ticks(sorted({0, 0.5 * chance, chance, 0.5 * (1 + chance), 1}))
    bar.ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f'{v:.3g}'))
    bar.ax.axhline(chance, color='black', linewidth=1.2)
    bar.set_label(f'share of the images of the class\n(line: {chance:.3g}, by chance)')


def label_axes(axis: Axes, names: list[str], order: np.ndarray, most: int) -> None:
    """Name the classes and at most ``most`` channels."""
    axis.set_ylabel('class')
    axis.set_xlabel("number of the teacher's channel (similar ones side by side)")
    every = -(-len(names) // 60)
    axis.set_yticks(range(0, len(names), every), names[::every], fontsize=8)
    every = -(-len(order) // most)
    places = range(0, len(order), every)
    axis.set_xticks(places, order[::every], rotation=90, fontsize=7)
