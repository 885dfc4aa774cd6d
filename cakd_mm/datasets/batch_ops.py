"""Crop, mirror and normalise a whole batch of uint8 images at once.

On the host batches are cut by numpy. The copies are so short that torch's threads would
mostly wait for each other, and for milliseconds where another process has their core.
"""

import cv2
import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor


def select(images: Tensor, places: np.ndarray) -> Tensor:
    """Return ``images[places]``."""
    if images.device.type == 'cpu':
        return torch.from_numpy(images.numpy().take(places, 0))
    return images.index_select(0, torch.from_numpy(places).to(images.device))


def crop_and_flip(
    images: Tensor,
    top: np.ndarray,
    left: np.ndarray,
    flips: np.ndarray,
    size: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    fill: tuple[int, ...] = (0,),
) -> Tensor:
    """Pad every image, cut a window out of it and mirror some of the windows.

    What mmpretrain's ``RandomCrop`` and ``RandomFlip`` do one by one, on any device;
    rows are copied as a whole.

    Args:
        images: (N, H, W, C) uint8, contiguous.
        top: First row of each window in the padded image, (N,) integers.
        left: First column of it, (N,) integers.
        flips: Which windows are mirrored left to right, (N,) bool.
        size: Height and width of the window, no larger than the padded image.
        padding: Pixels added left, top, right and below.
        fill: Their value, one number for all channels or one for each.

    Returns:
        Tensor: (N, *size, C) uint8, contiguous.
    """
    # Behind the images as they are lie mirrored ones; of these the window is cut
    # from the other side.
    count, which = len(images), np.flatnonzero(flips)
    place = np.arange(count)
    place[which] = np.arange(count, count + len(which))
    full_width = images.shape[2] + padding[0] + padding[2]
    left = np.where(flips, full_width - size[1] - left, left)
    fill = fill[0] if len(set(fill)) == 1 else fill
    cut = _cut_on_host if images.device.type == 'cpu' else _cut_on_device
    windows = cut(images, which, (place, top, left), size, padding, fill)
    return windows.view(count, *size, images.shape[3])


def _cut_on_host(images: Tensor, which, corners, size, padding, fill) -> Tensor:
    images = images.numpy()
    layout = _Layout(images.shape, len(which), padding)
    canvas = np.full(layout.shape, fill, np.uint8)
    canvas[layout.plain] = images
    if len(which):
        # One tall picture.
        mirrored = cv2.flip(images.take(which, 0).reshape(-1, *images.shape[2:]), 1)
        canvas[layout.mirrored] = mirrored.reshape(-1, *images.shape[1:])
    shape, strides = layout.windows(size)
    return torch.from_numpy(as_strided(canvas, shape, strides)[corners])


def _cut_on_device(images: Tensor, which, corners, size, padding, fill) -> Tensor:
    """Do the same by torch, for images that are not on the host."""
    which, *corners = (torch.from_numpy(x).to(images.device) for x in (which, *corners))
    layout = _Layout(images.shape, len(which), padding)
    canvas = images.new_empty(layout.shape)
    canvas[:] = canvas.new_tensor(fill)
    canvas[layout.plain] = images
    canvas[layout.mirrored] = images.index_select(0, which).flip(2)
    return canvas.as_strided(*layout.windows(size))[tuple(corners)]


class _Layout:
    """Where padded images, and behind them padded mirrored ones, lie in memory."""

    def __init__(self, images: tuple[int, ...], mirrored: int, padding) -> None:
        before, above, after, below = padding
        count, height, width, channels = images
        full = (height + above + below, width + before + after)
        self.shape = (count + mirrored, *full, channels)
        rows = slice(above, above + height)
        self.plain = (slice(count), rows, slice(before, before + width))
        self.mirrored = (slice(count, None), rows, slice(after, after + width))

    def windows(self, size: tuple[int, int]) -> tuple[tuple, tuple]:
        """Return shape and strides, in bytes, of all windows: image, corner, row."""
        count, height, width, channels = self.shape
        corners = (height - size[0] + 1, width - size[1] + 1)
        row = width * channels
        shape = (count, *corners, size[0], size[1] * channels)
        return shape, (height * row, row, channels, row, 1)


def row_of(numbers: Tensor, width: int) -> Tensor:
    """Repeat one number per channel for all pixels of a row, (W * C,).

    A single number for all channels stays one.
    """
    numbers = numbers.flatten()
    return numbers if len(numbers) == 1 else numbers.expand(width, -1).reshape(-1)


def normalized(
    images: Tensor, mean: Tensor, std: Tensor, to_rgb: bool = False
) -> Tensor:
    """Return ``(images - mean) / std``, the channels reversed before if asked.

    Bit for bit what ``ClsDataPreprocessor`` makes of a batch.

    Args:
        images: (N, C, H, W) uint8; fastest in ``channels_last``.
        mean: One number per channel or one for all, float32, of any shape, on the
            images' device; or a row's, see :func:`row_of`.
        std: As many, to divide by.
        to_rgb: Reverse the channels, if there are three.

    Returns:
        Tensor: (N, C, H, W) float32 in ``channels_last``.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()
    count, height, width, channels = pixels.shape
    if to_rgb and channels == 3:
        # The bytes back to front, then the pixels: two long copies.
        pixels = pixels.flatten(1).flip(1).view(count, -1, channels).flip(1)
    # Whole rows, as broadcasting over a few channels is slow.
    rows = pixels.reshape(count, height, -1).float()
    for numbers, apply in ((mean, rows.sub_), (std, rows.div_)):
        apply(numbers if len(numbers) == width * channels else row_of(numbers, width))
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)
