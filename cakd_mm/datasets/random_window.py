"""The random transforms of a pipeline, applied to whole batches."""

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

# These transforms give an image the same pixels every time.
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
    """Divide a pipeline into what is done once and what is done with each batch.

    Returns:
        tuple: The transforms that give an image the same pixels every time, and what
        ``RandomCrop`` and ``RandomFlip`` behind them do.

    Raises:
        ValueError: another transform, another order, or an option that cannot be
            applied to a batch.
    """
    rest = list(pipeline)
    fixed = []
    crop: RandomCrop | None = None
    flip: RandomFlip | None = None
    while rest and type(rest[0]) in DETERMINISTIC:
        fixed.append(rest.pop(0))
    if rest and type(rest[0]) is RandomCrop:
        crop = rest.pop(0)
    if rest and type(rest[0]) is RandomFlip:
        flip = rest.pop(0)
    for step in (crop, flip):
        _refuse_if(_why_not(step), step)
    if not (rest and type(rest[0]) is PackInputs):
        known = ', '.join(kind.__name__ for kind in DETERMINISTIC)
        _refuse_if(
            f'Batches go through any of {known}, then RandomCrop, then RandomFlip, '
            'then PackInputs; this stands where the next of these should.',
            rest[0] if rest else None,
        )
    _refuse_if(_why_not(rest[0]), rest[0])
    if rest[1:]:
        _refuse_if('It comes after PackInputs.', rest[1])
    return fixed, RandomWindow(crop, flip.prob if flip else 0.0)


def reason_of(refusal: ValueError) -> str:
    """Return the text of a refusal for those who have not asked for resident data."""
    return str(refusal).replace(f', or {SWITCH_OFF}', '.')


def _refuse_if(problem: str | None, transform) -> None:
    if problem is not None:
        remedy = f'Change or remove that transform, or {SWITCH_OFF}'
        # Those that hold pipelines of their own spell them over many lines.
        is_short = '\n' not in repr(transform)
        shown = transform if is_short else type(transform).__name__
        raise ValueError(describe(KEY, shown, problem, remedy))


def _why_not(step: BaseTransform | None) -> str | None:
    """Return why an option of a transform cannot be applied to a batch, if any."""
    if isinstance(step, RandomCrop):
        if step.padding_mode != 'constant':
            return f'Batches are not padded with padding_mode={step.padding_mode!r}.'
        if step.pad_if_needed:
            return 'Batches are not padded with pad_if_needed=True.'
    elif isinstance(step, RandomFlip):
        if step.direction != 'horizontal' or not isinstance(step.prob, float):
            return (
                "Batches are only flipped with one `prob` and direction='horizontal'."
            )
    elif isinstance(step, PackInputs) and (
        step.input_key != 'img' or step.algorithm_keys
    ):
        return 'Batches hold images, labels, sample_idx and img_path, nothing else.'
    return None


@dataclass(frozen=True)
class Draws:
    """Corner of the window of each image and whether it is mirrored, (N,) each."""

    top: np.ndarray
    left: np.ndarray
    flips: np.ndarray

    def __getitem__(self, places) -> 'Draws':
        return Draws(self.top[places], self.left[places], self.flips[places])


@lru_cache
def _border(pad_val: Number | tuple, channels: int) -> tuple[int, ...]:
    """Return the pixel with which mmcv pads.

    It is asked because it gives a single number to the first channel alone.
    """
    pixel = np.zeros((1, 1, channels), dtype=np.uint8)
    padded = mmcv.impad(pixel, padding=(1, 0, 0, 0), pad_val=pad_val)
    return tuple(padded[0, 0].flatten().tolist())


@dataclass
class RandomWindow:
    """A random window of a padded image, mirrored with some probability.

    Args:
        crop (RandomCrop, optional): The transform whose options hold.
        flip_prob: Probability that a window is mirrored.
    """

    crop: RandomCrop | None
    flip_prob: float

    @property
    def is_random(self) -> bool:
        """Whether there is anything to do with a batch."""
        return self.crop is not None or self.flip_prob > 0

    @cached_property
    def padding(self) -> tuple[int, int, int, int]:
        """Pixels that are added left, top, right and below."""
        padding = getattr(self.crop, 'padding', None) or 0
        if not isinstance(padding, Sequence):
            padding = (padding,)
        # One number is for all sides. Of two, the first is for left and right.
        left, top, right, below = tuple(padding) * (4 // len(padding))
        return left, top, right, below

    def draw(self, seed: int, epoch: int, count: int, shape: tuple[int, int]) -> Draws:
        """Draw for ``count`` images of a ``shape``, equally for equal numbers."""
        source = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
        padded, size = self._sizes(shape)
        top, left = (
            source.integers(whole - part + 1, size=count)
            for whole, part in zip(padded, size, strict=True)
        )
        return Draws(top, left, source.random(count) < self.flip_prob)

    def cut(self, images: Tensor, places: np.ndarray, draws: Draws) -> Tensor:
        """Return the windows that were drawn for some of (M, H, W, C) images."""
        _, height, width, channels = images.shape
        _, size = self._sizes((height, width))
        fill: tuple[int, ...] = (0,)
        if self.crop is not None and any(self.padding):
            value = self.crop.pad_val
            value = tuple(value) if isinstance(value, Sequence) else value
            fill = _border(value, channels)
        drawn = draws.top, draws.left, draws.flips
        return windows(images, places, *drawn, size, self.padding, fill)

    def _sizes(self, shape: tuple[int, int]) -> tuple[tuple, tuple]:
        """Return height and width of the padded image and of the window."""
        before, above, after, below = self.padding
        padded = (shape[0] + above + below, shape[1] + before + after)
        size = padded if self.crop is None else self.crop.crop_size
        return padded, tuple(map(min, padded, size))
