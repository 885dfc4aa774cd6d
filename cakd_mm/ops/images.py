"""Batches out of images that are kept in memory, by native kernels of the host.

Pixels are equal to those of their twins in ``datasets/batch_ops.py``.
"""

import numpy as np
import torch
from torch import Tensor

from .library import library


def cut(
    images: Tensor,
    places: np.ndarray,
    top: np.ndarray,
    left: np.ndarray,
    flips: np.ndarray,
    size: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    fill: tuple[int, ...] = (0,),
) -> Tensor:
    """Return windows of padded images, some of them mirrored.

    Arguments are those of :func:`cakd_mm.datasets.batch_ops.windows`.

    Raises:
        BuildError: the kernels cannot be built here.
        IndexError: a place is no image.
        TypeError: images are not of uint8, or places no integers.
        ValueError: arguments of several lengths.
    """
    images = images.contiguous()
    count, height, width, channels = images.shape
    before, above, _, _ = padding
    numbers = np.empty((3, len(places)), np.int64)
    numbers[0] = places
    np.subtract(top, above, out=numbers[1], dtype=np.int64)
    np.subtract(left, before, out=numbers[2], dtype=np.int64)
    flags = np.ascontiguousarray(flips, bool)
    pixel = np.array(fill * channels if len(fill) == 1 else fill, np.uint8)
    if images.dtype != torch.uint8 or places.dtype.kind != 'i':
        raise TypeError(f'{images.dtype} images, {places.dtype} places')
    if flags.shape != places.shape or pixel.shape != (channels,):
        raise ValueError(f'{flags.shape} flips, {pixel.shape} numbers to fill with')
    out = images.new_empty(len(places), *size, channels)
    first = numbers.ctypes.data
    stride = numbers.strides[0]
    wrong = library().cakd_cut(
        images.data_ptr(),
        count,
        height,
        width,
        channels,
        first,
        first + stride,
        first + 2 * stride,
        flags.ctypes.data,
        len(places),
        *size,
        pixel.ctypes.data,
        out.data_ptr(),
    )
    if wrong >= 0:
        raise IndexError(f'image {places[wrong]} of {count}')
    return out


def normalize(pixels: Tensor, mean: Tensor, std: Tensor, reverse: bool) -> Tensor:
    """Return ``(pixels - mean) / std``, each pixel's channels reversed before if asked.

    Args:
        pixels (Tensor): (N, H, W, C) uint8; C is 3 if ``reverse``.
        mean (Tensor): One number for each of a row's W * C, float32.
        std (Tensor): As many, to divide by.
        reverse (bool): Whether to reverse.

    Returns:
        Tensor: (N, H, W, C) float32.

    Raises:
        BuildError: the kernels cannot be built here.
        ValueError: other dtypes or lengths than these.
    """
    count, height, width, channels = pixels.shape
    # named: what they copy has to live as long as the call
    pixels, mean, std = pixels.contiguous(), mean.contiguous(), std.contiguous()
    for numbers in (mean, std):
        if numbers.dtype != torch.float32 or numbers.shape != (width * channels,):
            raise ValueError(f'a row of {numbers.dtype}, {tuple(numbers.shape)}')
    if pixels.dtype != torch.uint8 or (reverse and channels != 3):
        raise ValueError(f'{pixels.dtype} pixels of {channels} channels')
    out = pixels.new_empty(pixels.shape, dtype=torch.float32)
    library().cakd_normalize(
        pixels.data_ptr(),
        count * height,
        width * channels,
        mean.data_ptr(),
        std.data_ptr(),
        reverse,
        out.data_ptr(),
    )
    return out
