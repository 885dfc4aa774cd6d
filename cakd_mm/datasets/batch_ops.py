"""Crop, mirror and normalise a whole batch of uint8 images at once.

On the host numpy and OpenCV do this, because the copies are so short that torch's
threads would mostly wait for each other, and would wait for milliseconds if another
process has their core.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ..utils.transfer import send


def select(images: Tensor, places: np.ndarray) -> Tensor:
    """Return ``images[places]``."""
    if images.device.type == 'cpu':
        return torch.from_numpy(images.numpy().take(places, 0))
    return images.index_select(0, send(torch.from_numpy(places), images.device))


def windows(
    images: Tensor,
    places: np.ndarray,
    top: np.ndarray,
    left: np.ndarray,
    flips: np.ndarray,
    size: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    fill: tuple[int, ...] = (0,),
) -> Tensor:
    """Pick images, pad each, cut a window out of it and mirror some of the windows.

    This is what mmpretrain's ``RandomCrop`` and ``RandomFlip`` do with one image, for
    a batch and on any device.

    Args:
        images: (M, H, W, C) uint8, contiguous.
        places: Indices of the images to take, (N,) integers from 0.
        top: First row of each window in the padded image, (N,) integers.
        left: First column of each window, (N,) integers.
        flips: Whether each window is mirrored left to right, (N,) bool.
        size: Height and width of a window, no larger than the padded image.
        padding: Pixels added left, top, right and below. Defaults to none.
        fill: Value of the added pixels, one number for all channels or one for each.
            Defaults to 0.

    Returns:
        Tensor: (N, *size, C) uint8, contiguous.

    Raises:
        IndexError: there is no image of that index.
    """
    # On a device nobody would see an index that is too large until later.
    wrong = places[(places < 0) | (places >= len(images))]
    if len(wrong):
        raise IndexError(f'image {wrong[0]} of {len(images)}')
    cut = _cut_on_host if images.device.type == 'cpu' else _cut_on_device
    layout = _Layout((len(places), *images.shape[1:]), size, padding)
    return cut(images, _Chosen(places, flips, top, left), layout, fill)


class _Chosen(NamedTuple):
    """Image of each window, whether it is mirrored, and its first row and column."""

    places: np.ndarray
    flips: np.ndarray
    top: np.ndarray
    left: np.ndarray


class _Layout:
    """Shapes and strides of padded images and of all their windows in memory."""

    def __init__(self, images, size: tuple[int, int], padding) -> None:
        before, above, after, below = padding
        count, height, width, channels = images
        rows, columns = height + above + below, width + before + after
        self.shape = (count, rows, columns, channels)
        self.found = (count, *size, channels)
        inside_rows = slice(above, above + height)
        self.inside = (slice(None), inside_rows, slice(before, before + width))
        # Image, first row, first column, row of the window, byte in that row.
        corners = (rows - size[0] + 1, columns - size[1] + 1)
        self.windows = (count, *corners, size[0], size[1] * channels)
        row = columns * channels
        self.strides = (rows * row, row, channels, row, 1)


def _cut_on_host(
    images: Tensor, chosen: _Chosen, layout: _Layout, fill: tuple[int, ...]
) -> Tensor:
    # One number fills faster than a tuple.
    value = fill[0] if len(set(fill)) == 1 else fill
    canvas = np.full(layout.shape, value, np.uint8)
    canvas[layout.inside] = images.numpy().take(chosen.places, 0)
    # numpy's as_strided gives the same view, but takes longer for it.
    views: np.ndarray = np.ndarray(
        layout.windows, np.uint8, canvas, strides=layout.strides
    )
    rows = np.arange(len(chosen.places))
    found = views[rows, chosen.top, chosen.left].reshape(layout.found)
    mirrored = np.flatnonzero(chosen.flips)
    if len(mirrored):
        some = found.take(mirrored, 0)
        # OpenCV mirrors them as one tall picture, because each call of it costs time.
        tall = cv2.flip(some.reshape(-1, *some.shape[2:]), 1)
        found[mirrored] = tall.reshape(some.shape)
    return torch.from_numpy(found)


def _cut_on_device(
    images: Tensor, chosen: _Chosen, layout: _Layout, fill: tuple[int, ...]
) -> Tensor:
    numbers = np.stack([*chosen, np.arange(len(chosen.places))])
    # One copy brings all numbers, because each copy costs as much as a small kernel.
    places, flips, top, left, rows = send(torch.from_numpy(numbers), images.device)
    canvas = images.new_full(layout.shape, fill[0])
    for channel, value in enumerate(fill):
        if value != fill[0]:
            canvas[..., channel].fill_(value)
    canvas[layout.inside] = images.index_select(0, places)
    found = canvas.as_strided(layout.windows, layout.strides)[rows, top, left]
    found = found.view(layout.found)
    if chosen.flips.any():
        which = flips.bool().view(-1, 1, 1, 1)
        found = torch.where(which, found.flip(2), found)
    return found


def row_of(numbers: Tensor, width: int, channels: int) -> Tensor:
    """Repeat one number per channel, or one for all, along a row, (W * C,)."""
    return numbers.flatten().expand(width, channels).contiguous().view(-1)


def normalized(
    images: Tensor, mean: Tensor, std: Tensor, to_rgb: bool = False
) -> Tensor:
    """Return ``(images - mean) / std``, as ``ClsDataPreprocessor`` does bit for bit.

    Args:
        images: (N, C, H, W) uint8; ``channels_last`` is the fastest.
        mean: One number per channel or one for all, float32, of any shape, on the
            images' device; or what :func:`row_of` made of it.
        std: The same for the deviation.
        to_rgb: Whether to reverse three channels first. Defaults to False.

    Returns:
        Tensor: (N, C, H, W) float32 in ``channels_last``.
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()
    count, height, width, channels = pixels.shape
    # Whole rows are subtracted, because broadcasting over a few channels is slow.
    mean, std = (
        x if len(x) == width * channels else row_of(x, width, channels)
        for x in (mean, std)
    )
    if to_rgb and channels == 3:
        on_host = pixels.device.type == 'cpu'
        pixels = (_reversed_on_host if on_host else _reversed_on_device)(pixels)
    rows = pixels.reshape(count, height, -1).float().sub_(mean).div_(std)
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _reversed_on_host(pixels: Tensor) -> Tensor:
    """Return contiguous pixels (N, H, W, 3), uint8, with the channels reversed."""
    # OpenCV takes them as one tall picture, because each call of it costs time.
    picture = pixels.numpy().reshape(-1, *pixels.shape[2:])
    reversed_ = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return torch.from_numpy(reversed_).view(pixels.shape)


def _reversed_on_device(pixels: Tensor) -> Tensor:
    # First all bytes are reversed, then the order of the pixels, because two copies of
    # long runs are faster than one copy of runs of three bytes.
    return pixels.flatten(1).flip(1).view(len(pixels), -1, 3).flip(1)
