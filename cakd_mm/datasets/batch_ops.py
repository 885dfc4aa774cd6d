"""Crop, mirror and normalise a whole batch of uint8 images at once."""

import numpy as np
import torch
from torch import Tensor


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
    before, above, after, below = padding
    count, height, width, channels = images.shape
    full_height, full_width = height + above + below, width + before + after
    # Behind the images as they are lie mirrored ones; of these the window is cut
    # from the other side.
    which = np.flatnonzero(flips)
    place = np.arange(count)
    place[which] = np.arange(count, count + len(which))
    left = np.where(flips, full_width - size[1] - left, left)
    canvas = images.new_empty((count + len(which), full_height, full_width * channels))
    if any(padding):
        _fill(canvas, fill)
    mirrored = _mirror(images.index_select(0, _on(images, which)))
    rows = slice(above, above + height)
    for part, start, batch in (
        (canvas[:count], before, images),
        (canvas[count:], after, mirrored),
    ):
        part[:, rows, start * channels : (start + width) * channels] = batch.flatten(2)
    offsets = ((place * full_height + top) * full_width + left) * channels
    return _windows(canvas, offsets, (size[0], size[1] * channels)).unflatten(
        2, (size[1], channels)
    )


def _on(like: Tensor, numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(numbers).to(like.device)


def _fill(canvas: Tensor, fill: tuple[int, ...]) -> None:
    if len(set(fill)) == 1:
        canvas.fill_(fill[0])
    else:
        canvas[:] = canvas.new_tensor(fill).repeat(canvas.shape[-1] // len(fill))


def _mirror(images: Tensor) -> Tensor:
    """Mirror (N, H, W, C) left to right: turn by 180 degrees, then upside down.

    Two long copies, where mirroring row by row makes many short ones.
    """
    turned = images.flatten(1, 2).flip(1).view(images.shape)
    return turned.flatten(2).flip(1).view(images.shape)


def _windows(canvas: Tensor, offsets: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return the windows of ``size`` bytes that begin at ``offsets``, (N, *size)."""
    stride = canvas.shape[-1]
    # Every place from which a window still fits.
    places = canvas.numel() - (size[0] - 1) * stride - size[1] + 1
    windows = canvas.as_strided((places, *size), (1, stride, 1))
    return windows.index_select(0, _on(canvas, offsets))


def row_of(numbers: Tensor, width: int) -> Tensor:
    """Repeat one number per channel for all pixels of a row, (W * C,).

    A single number for all channels stays one.
    """
    numbers = numbers.flatten()
    return numbers if len(numbers) == 1 else numbers.repeat(width)


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
