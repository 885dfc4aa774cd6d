"""Crop, mirror and normalise a whole batch of uint8 images at once.

On the host numpy and OpenCV do it, because the copies are so short that torch's
threads would mostly wait for each other, and for milliseconds where another process
has their core.
"""

import cv2
import numpy as np
import torch
from torch import Tensor


def select(images: Tensor, places: np.ndarray) -> Tensor:
    """Return ``images[places]``."""
    if images.device.type == 'cpu':
        return torch.from_numpy(images.numpy().take(places, 0))
    return images.index_select(0, torch.from_numpy(places).to(images.device))


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

    What mmpretrain's ``RandomCrop`` and ``RandomFlip`` do one by one, on any device.

    Args:
        images: (M, H, W, C) uint8, contiguous.
        places: Which of them, (N,) integers from 0.
        top: First row of each window in the padded image, (N,) integers.
        left: First column of it, (N,) integers.
        flips: Which windows are mirrored left to right, (N,) bool.
        size: Height and width of the window, no larger than the padded image.
        padding: Pixels added left, top, right and below.
        fill: Their value, one number for all channels or one for each.

    Returns:
        Tensor: (N, *size, C) uint8, contiguous.

    Raises:
        IndexError: a place is no image.
    """
    on_host = images.device.type == 'cpu'
    if len(places) and places.min() < 0:  # numpy would count it from the end
        raise IndexError(f'image {places.min()} of {len(images)}')
    images = select(images, places)
    which = np.flatnonzero(flips)
    fill = fill[0] if len(set(fill)) == 1 else fill
    cut = _cut_on_host if on_host else _cut_on_device
    found = cut(images, (np.arange(len(images)), top, left), size, padding, fill)
    found = found.view(len(images), *size, images.shape[3])
    if len(which):
        mirror = _mirror_on_host if on_host else _mirror_on_device
        mirror(found, which)
    return found


def _cut_on_host(images: Tensor, corners, size, padding, fill) -> Tensor:
    images = images.numpy()
    layout = _Layout(images.shape, padding)
    canvas = np.full(layout.shape, fill, np.uint8)
    canvas[layout.inside] = images
    shape, strides = layout.windows(size)
    # numpy's as_strided gives the same view, but takes longer for it.
    views = np.ndarray(shape, np.uint8, canvas, strides=strides)
    return torch.from_numpy(views[corners])


def _cut_on_device(images: Tensor, corners, size, padding, fill) -> Tensor:
    """Do the same by torch, for images that are not on the host."""
    corners = tuple(torch.from_numpy(x).to(images.device) for x in corners)
    layout = _Layout(images.shape, padding)
    canvas = images.new_empty(layout.shape)
    canvas[:] = canvas.new_tensor(fill)
    canvas[layout.inside] = images
    return canvas.as_strided(*layout.windows(size))[corners]


def _mirror_on_host(windows: Tensor, which: np.ndarray) -> None:
    """Mirror some of the windows (N, H, W, C) in place."""
    windows = windows.numpy()
    some = windows.take(which, 0)
    # OpenCV mirrors them as one tall picture, since each call of it costs time.
    mirrored = cv2.flip(some.reshape(-1, *some.shape[2:]), 1)
    windows[which] = mirrored.reshape(some.shape)


def _mirror_on_device(windows: Tensor, which: np.ndarray) -> None:
    places = torch.from_numpy(which).to(windows.device)
    windows[places] = windows.index_select(0, places).flip(2)


class _Layout:
    """Where padded images lie in memory."""

    def __init__(self, images: tuple[int, ...], padding) -> None:
        before, above, after, below = padding
        count, height, width, channels = images
        full = (height + above + below, width + before + after)
        self.shape = (count, *full, channels)
        rows = slice(above, above + height)
        self.inside = (slice(None), rows, slice(before, before + width))

    def windows(self, size: tuple[int, int]) -> tuple[tuple, tuple]:
        """Return shape and strides, in bytes, of all windows: image, corner, row."""
        count, height, width, channels = self.shape
        corners = (height - size[0] + 1, width - size[1] + 1)
        row = width * channels
        shape = (count, *corners, size[0], size[1] * channels)
        return shape, (height * row, row, channels, row, 1)


def row_of(numbers: Tensor, width: int, channels: int) -> Tensor:
    """Repeat one number per channel, or one for all, for a row's pixels, (W * C,)."""
    return numbers.flatten().expand(width, channels).contiguous().view(-1)


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
    reverse = to_rgb and channels == 3
    # Whole rows are subtracted, because broadcasting over a few channels is slow.
    mean, std = (
        x if len(x) == width * channels else row_of(x, width, channels)
        for x in (mean, std)
    )
    on_host = pixels.device.type == 'cpu'
    if reverse:
        pixels = (_reversed_on_host if on_host else _reversed_on_device)(pixels)
    rows = pixels.reshape(count, height, -1).float().sub_(mean).div_(std)
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _reversed_on_host(pixels: Tensor) -> Tensor:
    """Return contiguous pixels (N, H, W, 3), uint8, with the channels reversed."""
    # OpenCV takes them as one tall picture, since each call of it costs time.
    picture = pixels.numpy().reshape(-1, *pixels.shape[2:])
    reversed_ = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return torch.from_numpy(reversed_).view(pixels.shape)


def _reversed_on_device(pixels: Tensor) -> Tensor:
    # All bytes are reversed, then the order of the pixels: two long copies are faster
    # than one of which every run is three bytes.
    return pixels.flatten(1).flip(1).view(len(pixels), -1, 3).flip(1)
