"""What a teacher sees: the shared batch, mapped to its own preprocessing."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmpretrain.models import ClsDataPreprocessor, SelfSupDataPreprocessor
from torch import Tensor, nn

from ...utils.errors import describe
from ...utils.training_images import loading, name_of, pair_of, training_set
from ..data_preprocessors import BatchPreprocessor
from ..widened import widest_float

# What these make of an image is known; a subclass with another forward may do more.
FORWARDS = {
    kind.forward
    for kind in (
        *(BaseDataPreprocessor, BatchPreprocessor, ClsDataPreprocessor),
        *(ImgDataPreprocessor, SelfSupDataPreprocessor),
    )
}
# Statistics that differ by less, in units of the deviation, were rounded.
TOLERANCE = 1e-3
KEY = 'data_preprocessor'


@dataclass(frozen=True)
class Normalisation:
    """How images are normalised, ``(image - mean) / std``.

    Args:
        mean (list[float]): In the channel order of the net, one for all or one each.
        std (list[float]): The same.
        to_rgb (bool): Whether three channels are reversed first.
        is_said (bool): Whether a mean is given; without one, images stay as they are.
    """

    mean: list[float]
    std: list[float]
    to_rgb: bool
    is_said: bool = True

    def shown(self) -> str:
        """Return it as one writes it in a config."""
        mean, std = ([float(f'{x:.7g}') for x in xs] for xs in (self.mean, self.std))
        return f'dict(mean={mean}, std={std}, to_rgb={self.to_rgb})'

    def agrees(self, other: 'Normalisation') -> bool:
        """Return whether mean and std are the same, but for rounding."""
        rows = self.mean, self.std, other.mean, other.std
        if len({1, *map(len, rows)}) > 2:  # of images with other channels
            return False
        mean, std, its_mean, its_std = map(torch.tensor, rows)
        gaps = (mean - its_mean) / std, its_std / std - 1
        return all(bool((gap.abs() <= TOLERANCE).all()) for gap in gaps)


def normalisation_of(preprocessor: nn.Module) -> Normalisation:
    """Return the normalisation of a preprocessor."""
    flags = ('to_rgb', '_channel_conversion', 'channel_conversion')
    to_rgb = any(getattr(preprocessor, flag, False) for flag in flags)
    values: list[Any] = [getattr(preprocessor, name, None) for name in ('mean', 'std')]
    unsaid = any(value is None for value in values)
    if unsaid or not getattr(preprocessor, '_enable_normalize', True):
        return Normalisation([0.0], [1.0], to_rgb, False)
    mean, std = (value.cpu().double().flatten().tolist() for value in values)
    return Normalisation(mean, std, to_rgb)


def trained_normalisation(config: Mapping[str, Any]) -> Normalisation | None:
    """Return the normalisation in the config of a run; None if it is unknown.

    Args:
        config (Mapping): Its values, of a plain training or of a distillation.
    """
    model = config.get('model')
    if not isinstance(model, Mapping):
        return None
    student = model.get('architecture')
    student = student if isinstance(student, Mapping) else {}
    said = [x[KEY] for x in (model, config, student) if KEY in x]
    found: Any = next(filter(None, said), {})
    if not found and 'cfg_path' in student:
        return None
    _, steps = training_set(config)
    # None stands for what only code could tell, too.
    is_known = isinstance(found, Mapping) and None not in said and steps is not None
    if not is_known or found.get('mean', 0) is None:
        return None
    to_rgb = bool(found.get('to_rgb', found.get('bgr_to_rgb', False)))
    if "Normalize'" in repr(steps):
        return _normalised_in(steps or [], found, to_rgb)
    if found.get('mean') is None:
        # Without a training set it is not known that nothing else normalises.
        nothing = "Normalize'" in repr(config)
        return None if nothing else Normalisation([0.0], [1.0], to_rgb, False)
    return _given_by(found, to_rgb)


def _normalised_in(
    steps: list[Mapping], found: Mapping, to_rgb: bool
) -> Normalisation | None:
    """Return the normalisation of a pipeline that has a step for it."""
    own = [step for step in steps if name_of(step) == 'Normalize']
    # torchvision's has other numbers, because its pixels are up to 1; a step within
    # another one is not always run.
    alone = len(own) == 1 and repr(steps).count("Normalize'") == 1
    if not alone or 'torchvision' in repr(own[0].get('type')):
        return None
    if found.get('mean') is not None:
        text = 'The config in the checkpoint of the teacher normalises both in '
        text += 'data_preprocessor and in the pipeline, so its normalisation is not '
        text += 'compared.'
        print_log(text, 'current', logging.WARNING)
        return None
    # The channels of both steps together would have to be followed.
    return None if to_rgb else _given_by(own[0], bool(own[0].get('to_rgb', True)))


def _given_by(found: Mapping, to_rgb: bool) -> Normalisation | None:
    mean, std = (_numbers(found.get(name)) for name in ('mean', 'std'))
    return Normalisation(mean, std, to_rgb) if mean and std else None


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return (
        [float(x) for x in values] if all(isinstance(x, Real) for x in values) else []
    )


@dataclass(frozen=True)
class TeacherView:
    """What a teacher sees, and what it was trained on.

    Args:
        key (str): The config key of its ``data_preprocessor``.
        made (Normalisation): How the shared batch is made.
        wanted (Normalisation): What the teacher sees, ``made`` if its config is silent.
        size (tuple[int, int], optional): What its images are resized to, height and
            width. Defaults to None (as they are).
        trained_with (dict): Values of the config in its checkpoint; empty if there is
            none.
        is_own (bool): Whether its config says what it is to see.
    """

    key: str
    made: Normalisation
    wanted: Normalisation
    size: tuple[int, int] | None
    trained_with: dict[str, Any]
    is_own: bool

    @cached_property
    def trained(self) -> Normalisation | None:
        """The normalisation that it was trained with; None if that is unknown."""
        return trained_normalisation(self.trained_with)


def view_of(
    net: nn.Module,
    shared: nn.Module,
    size: tuple[int, int] | None,
    trained_with: dict[str, Any],
    key: str,
) -> TeacherView:
    """Return what a teacher sees.

    Raises:
        ValueError: its config reverses channels and says nothing of mean and std.
    """
    made = normalisation_of(shared)
    wanted = normalisation_of(getattr(net, 'data_preprocessor', shared))
    if not wanted.is_said and wanted.to_rgb and not made.to_rgb:
        problem = 'It has no mean, so it does not say how images are normalised.'
        proposed = Normalisation(made.mean, made.std, True)
        remedy = f'Write {key}={proposed.shown()}, say, or remove to_rgb.'
        raise ValueError(describe(f'{key}.to_rgb', True, problem, remedy))
    is_own = wanted.is_said
    return TeacherView(
        key, made, wanted if is_own else made, size, trained_with, is_own
    )


class ImageMap(nn.Module):
    """Maps a batch to what other settings of a preprocessor would have made of it.

    Channels are swapped, multiplied and shifted, and the images are resized bilinearly
    with antialiasing, on their device. Mixed images (mixup, CutMix) are mapped rightly
    too, because all of this is affine. The batch itself stays as it is.

    Args:
        made (Normalisation): How the batch is made.
        wanted (Normalisation): How it should have been made.
        size (tuple[int, int], optional): Height and width. Defaults to None (as it is).
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        made: Normalisation,
        wanted: Normalisation,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.swaps = made.to_rgb != wanted.to_rgb
        self.size = size
        rows = [made.mean, made.std, wanted.mean, wanted.std]
        mean, std, its_mean, its_std = (
            torch.tensor(row, dtype=torch.float64).view(-1, 1, 1) for row in rows
        )
        if self.swaps:
            mean, std = mean.flip(0), std.flip(0)
        self.normalises = not (
            torch.equal(mean, its_mean) and torch.equal(std, its_std)
        )
        scale, shift = std / its_std, (mean - its_mean) / its_std
        widest = widest_float()  # of the device that the map moves to
        self.register_buffer('scale', scale.to(widest), persistent=False)
        self.register_buffer('shift', shift.to(widest), persistent=False)

    @property
    def changes(self) -> bool:
        """Whether there is anything to map."""
        return self.swaps or self.normalises or self.size is not None

    def forward(self, images: Tensor) -> Tensor:
        """Return the mapped images, (N, C, H, W), of the same type."""
        dtype = images.dtype
        if dtype in (torch.float16, torch.bfloat16):
            images = images.float()
        if self.swaps and images.shape[1] == 3:
            images = images.flip(1)
        if self.normalises:
            images = images * self.scale.to(images) + self.shift.to(images)
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode='bilinear', antialias=True)
        return images.to(dtype)


def build_image_map(
    net: nn.Module, shared: nn.Module, view: TeacherView
) -> ImageMap | None:
    """Return what makes the shared batch what a teacher's own preprocessing makes.

    Args:
        net (nn.Module): The teacher.
        shared (nn.Module): The preprocessor that makes the batch.
        view (TeacherView): What the teacher is to see.

    Returns:
        ImageMap | None: None if the teacher sees the batch as it is.

    Raises:
        ValueError: there is no such map.
    """
    mapped = ImageMap(view.made, view.wanted, view.size)
    if not mapped.changes:
        return None
    own: Any = net.data_preprocessor
    for preprocessor, key in ((shared, KEY), (own, view.key)):
        _require_known(preprocessor, key)
        _refuse_padding(preprocessor, key)
    text = (
        f'The teacher sees the batch as {view.key}={view.wanted.shown()} would make it'
    )
    resized = f', resized to {view.size}' if view.size else ''
    print_log(f'{text}{resized}.', 'current')
    return mapped


def _divisor(preprocessor: nn.Module) -> int:
    return int(getattr(preprocessor, 'pad_size_divisor', 1))


def _require_known(preprocessor: nn.Module, key: str) -> None:
    kind = type(preprocessor)
    if kind.forward not in FORWARDS:
        problem = 'What it makes of an image is not known, so that no batch can be '
        problem += 'mapped from or to it.'
        remedy = "Write type='ClsDataPreprocessor', or the same settings for teacher "
        remedy += 'and student.'
        raise ValueError(describe(f'{key}.type', kind.__name__, problem, remedy))


def _refuse_padding(preprocessor: nn.Module, key: str) -> None:
    if _divisor(preprocessor) == 1:
        return
    problem = 'Padding cannot be mapped to another preprocessing.'
    remedy = 'Pad in the pipeline, and remove pad_size_divisor.'
    value = _divisor(preprocessor)
    raise ValueError(describe(f'{key}.pad_size_divisor', value, problem, remedy))


def read_size(size: Any, key: str) -> tuple[int, int] | None:
    """Return height and width of ``data_preprocessor.size``.

    Raises:
        ValueError: it is neither a number of pixels nor two of them.
    """
    pair = pair_of(size)
    if size is None or pair is not None:
        return pair
    problem, remedy = 'It is a number of pixels, or (height, width).', 'Write 224, say.'
    raise ValueError(describe(f'{key}.size', size, problem, remedy))


def compare_with_training(view: TeacherView) -> None:
    """Compare what a teacher sees with what it was trained on.

    Raises:
        ValueError: it was trained with another mean or std, and its own config does not
            say that it is to see others.
    """
    trained, key = view.trained, view.key
    if trained is None or trained.agrees(view.wanted):
        return
    problem = f'Its checkpoint says that the teacher was trained with {trained.shown()}'
    if view.is_own:
        remedy = f'Write {key}={trained.shown()} if that is not meant.'
        text = describe(key, view.wanted.shown(), f'{problem}.', remedy)
        print_log(text, 'current', logging.WARNING)
        return
    made = view.made
    problem += f', and the batch is made with {made.shown()}.'
    proposed = f'{key}={trained.shown()}, to which the batch is then mapped for the '
    proposed += 'teacher alone'
    if trained.to_rgb != made.to_rgb:
        way = loading(view.trained_with)
        proposed += f' (to_rgb if images are loaded as there{f", {way}" if way else ""}'
        proposed += '; otherwise so that channels have the order of that training)'
    remedy = f'Write {proposed}, or {key}={made.shown()} if it is to see it as it is.'
    if made.is_said and trained.is_said:
        raise ValueError(describe(key, None, problem, remedy))
    # A pipeline may normalise as well, so that this is no proof.
    remedy = f'If no pipeline normalises, write {proposed}.'
    print_log(describe(key, None, problem, remedy), 'current', logging.WARNING)
