"""The random part of a pipeline that whole batches can go through."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Number

import mmcv
import numpy as np
from mmcv.transforms import (
    BaseTransform,
    CenterCrop,
    LoadImageFromFile,
    Pad,
    RandomFlip,
    Resize,
)
from mmpretrain.datasets.transforms import (
    EfficientNetCenterCrop,
    PackInputs,
    RandomCrop,
    ResizeEdge,
)
from torch import Tensor

from ..utils.errors import describe
from .batch_ops import windows

# Give the same image the same pixels whenever they are run.
DETERMINISTIC = (
    LoadImageFromFile,
    Resize,
    ResizeEdge,
    CenterCrop,
    EfficientNetCenterCrop,
    Pad,
)
KEY = 'dataset.pipeline'
SWITCH_OFF = (
    "switch resident data off (train_cfg.resident=False, val_cfg.type='ValLoop')."
)


def split(pipeline: Sequence) -> tuple[list[BaseTransform], 'RandomWindow']:
    """Divide a pipeline's transforms into what is run once and what in batches.

    Returns:
        tuple: Those that give an image the same pixels every time, and what
        ``RandomCrop`` and ``RandomFlip`` behind them do.

    Raises:
        ValueError: another transform, another order, or an option of them that
            batches cannot go through.
    """
    rest = list(pipeline)
    fixed, random = [], {}
    while rest and type(rest[0]) in DETERMINISTIC:
        fixed.append(rest.pop(0))
    for kind, why_not in ((RandomCrop, _why_not_crop), (RandomFlip, _why_not_flip)):
        if rest and type(rest[0]) is kind:
            _refuse_if(why_not(rest[0]), rest[0])
            random[kind] = rest.pop(0)
    if not (rest and type(rest[0]) is PackInputs):
        known = ', '.join(kind.__name__ for kind in DETERMINISTIC)
        _refuse_if(
            f'Batches go through any of {known}, then RandomCrop, then RandomFlip, '
            'then PackInputs; this stands where the next of these should.',
            rest[0] if rest else None,
        )
    _refuse_if(_why_not_pack(rest[0]), rest[0])
    if rest[1:]:
        _refuse_if('It comes after PackInputs.', rest[1])
    flip = random.get(RandomFlip)
    return fixed, RandomWindow(random.get(RandomCrop), flip.prob if flip else 0.0)


def _refuse_if(problem: str | None, transform) -> None:
    if problem is not None:
        remedy = f'Change or remove that transform, or {SWITCH_OFF}'
        raise ValueError(describe(KEY, transform, problem, remedy))


def _why_not_crop(crop: RandomCrop) -> str | None:
    if crop.padding_mode != 'constant':
        return f'Batches are not padded with padding_mode={crop.padding_mode!r}.'
    if crop.pad_if_needed:
        return 'Batches are not padded with pad_if_needed=True.'
    return None


def _why_not_flip(flip: RandomFlip) -> str | None:
    if flip.direction != 'horizontal' or not isinstance(flip.prob, float):
        return "Batches are only flipped with one `prob` and direction='horizontal'."
    return None


def _why_not_pack(pack: PackInputs) -> str | None:
    if pack.input_key != 'img' or pack.algorithm_keys:
        return 'Batches hold images, labels, sample_idx and img_path, nothing else.'
    return None


@dataclass(frozen=True)
class Draws:
    """Corner of each image's window and whether it is mirrored, (N,) each."""

    top: np.ndarray
    left: np.ndarray
    flips: np.ndarray

    def __getitem__(self, places) -> 'Draws':
        return Draws(self.top[places], self.left[places], self.flips[places])


@lru_cache
def _border(pad_val: Number | tuple, channels: int) -> tuple[int, ...]:
    """Return what mmcv pads with: one number is the first channel's alone."""
    pixel = np.zeros((1, 1, channels), dtype=np.uint8)
    padded = mmcv.impad(pixel, padding=(1, 0, 0, 0), pad_val=pad_val)
    return tuple(padded[0, 0].flatten().tolist())


@dataclass
class RandomWindow:
    """A random window of a padded image, mirrored with some probability.

    Args:
        crop (RandomCrop, optional): Whose options are taken.
        flip_prob: Probability of mirroring it.
    """

    crop: RandomCrop | None
    flip_prob: float

    @property
    def is_random(self) -> bool:
        """Whether there is anything to do for a batch."""
        return self.crop is not None or self.flip_prob > 0

    @cached_property
    def padding(self) -> tuple[int, int, int, int]:
        """Pixels left, top, right and below."""
        padding = getattr(self.crop, 'padding', None) or 0
        if not isinstance(padding, Sequence):
            padding = (padding,)
        # One number for all, or one for left and right and one for top and bottom.
        return tuple(padding) * (4 // len(padding))

    def draw(self, seed: int, epoch: int, count: int, shape: tuple[int, int]) -> Draws:
        """Draw for ``count`` images of a ``shape``, the same each time it is called."""
        source = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
        padded, size = self._sizes(shape)
        top, left = (
            source.integers(whole - part + 1, size=count)
            for whole, part in zip(padded, size, strict=True)
        )
        return Draws(top, left, source.random(count) < self.flip_prob)

    def cut(self, images: Tensor, places: np.ndarray, draws: Draws) -> Tensor:
        """Return the windows that were drawn for some of (M, H, W, C) images."""
        _, size = self._sizes(images.shape[1:3])
        fill = (0,)
        if any(self.padding):
            value = self.crop.pad_val
            value = tuple(value) if isinstance(value, Sequence) else value
            fill = _border(value, images.shape[-1])
        drawn = draws.top, draws.left, draws.flips
        return windows(images, places, *drawn, size, self.padding, fill)

    def _sizes(self, shape: tuple[int, int]) -> tuple[tuple, tuple]:
        """Return height and width of the padded image and of the window."""
        before, above, after, below = self.padding
        padded = (shape[0] + above + below, shape[1] + before + after)
        size = padded if self.crop is None else self.crop.crop_size
        return padded, tuple(map(min, padded, size))
