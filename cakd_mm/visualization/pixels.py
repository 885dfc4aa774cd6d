"""Turns a figure into an image."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def pixels_of(figure: Figure, dpi: int = 110) -> np.ndarray:
    """Return a figure as an image, uint8 RGB, (H, W, 3).

    Args:
        figure: The figure.
        dpi: Pixels per inch of its size. Defaults to 110.
    """
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
