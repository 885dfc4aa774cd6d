"""The sizes of images, all of which are read for that."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from PIL import Image

from ..utils.machine import cores

# An eighth of each side, because decoding it is faster where the format allows it.
SMALL_COPY = cv2.IMREAD_REDUCED_COLOR_8


def read_sides(
    root: Path, names: Sequence[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Decode images as training will, and measure them.

    Args:
        root (Path): Their folder.
        names (Sequence[str]): Their paths in it.

    Returns:
        tuple: The shorter side in pixels of each image that can be read, and of the
        others what is wrong with them.
    """
    with ThreadPoolExecutor(cores()) as pool:
        found = list(pool.map(_side, [root / name for name in names]))
    pairs = list(zip(names, found, strict=True))
    return (
        {name: side for name, side in pairs if isinstance(side, int)},
        {name: side for name, side in pairs if isinstance(side, str)},
    )


def _side(path: Path) -> int | str:
    """Return the shorter side of an image, or why it cannot be read."""
    try:
        with Image.open(path) as image:
            side = min(image.size)
        flag = SMALL_COPY if side >= 8 * 8 else cv2.IMREAD_COLOR
        decoded = cv2.imdecode(np.fromfile(path, np.uint8), flag)
    except Exception as error:  # Pillow has an error of its own for each format.
        return str(error) or type(error).__name__
    return side if decoded is not None else 'OpenCV cannot decode it'


def training_size(sides: Sequence[int]) -> int:
    """Return the size for training on images with these shorter sides, in pixels.

    It is 32 for a median of up to 40 pixels, 64 for one of up to 96, else 224.
    """
    middle = median(sides)
    return 32 if middle <= 40 else 64 if middle <= 96 else 224
