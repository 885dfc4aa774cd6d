"""A net that a person named: built, given its weights, and tried on random images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch.nn.modules.batchnorm import _BatchNorm

from ..utils.class_names import Names
from ..utils.net_names import NamedNet, with_classes, without_downloads
from .given_weights import GivenWeights, read_given_weights
from .trial import built_quietly, try_net


@dataclass(frozen=True)
class TriedNet:
    """A net that works on the images.

    Args:
        named (NamedNet): As it was named.
        net (ConfigDict): Its config, for as many classes as it scores.
        classes (int): How many these are.
        size (int): Of the images that it takes, in pixels.
        has_batch_norm (bool): Whether it has batch norm.
        weights (GivenWeights, optional): What it begins with, or is. Defaults to None
            (at random).
    """

    named: NamedNet
    net: ConfigDict
    classes: int
    size: int
    has_batch_norm: bool
    weights: GivenWeights | None

    @property
    def preprocessor(self) -> Mapping[str, Any]:
        """``mean``, ``std`` and ``to_rgb`` that its weights were trained with.

        It is empty for a net that begins at random, which learns from any images.
        """
        if self.weights is None:
            return {}
        return self.weights.preprocessor or self.named.preprocessor


def tried(
    named: NamedNet,
    key: str,
    file: str | None,
    classes: Names,
    sizes: Sequence[int | None],
) -> TriedNet:
    """Build a net, read its weights and let it score images.

    Args:
        named (NamedNet): The net.
        key (str): The option that names it, for errors.
        file (str, optional): Its weights. Defaults to None (those that came with it).
        classes (tuple[str, ...]): Names of the images' classes.
        sizes (Sequence[int | None]): Of the images, in pixels; the first that it takes
            is its size. None is no size.

    Raises:
        FileNotFoundError, ValueError: the net or its weights cannot be used.
    """
    named.net, left_out = without_downloads(named.net)
    for source in left_out:
        print(f'{named.name} begins at random: nothing is downloaded ({source}).')

    @cache
    def build(count: int) -> BaseModel:
        return built_quietly(named, key, count)

    weights = None
    if file is not None:
        option = f'{key}-ckpt'
        remedy = f'Give weights of {named.name}, or leave {option} out.'
        weights = read_given_weights(file, named, classes, build, option, remedy)
    elif named.weights is not None:
        file = named.weights
        remedy = f'Correct that file, or give others as {key}-ckpt.'
        weights = read_given_weights(file, named, classes, build, key, remedy)
    if weights is not None:
        print(f'{named.name}: {weights.shown()}')
    count = weights.classes if weights else len(classes)
    net = build(count)
    wanted, *others = [size for size in sizes if size is not None]
    size = try_net(net, named, key, [wanted, *others], count)
    if size != wanted:
        print(f'{named.name} takes no images of {wanted} pixels, and gets {size}.')
    norm = any(isinstance(x, _BatchNorm) for x in net.modules())
    return TriedNet(named, with_classes(named.net, count), count, size, norm, weights)
