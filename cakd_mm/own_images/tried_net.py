"""A net that a person named: built, given its weights, and tried on random images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.taps import count_name, gives_scores
from ..utils.class_names import Names
from ..utils.errors import describe
from ..utils.net_names import NamedNet, with_classes, without_downloads
from ..utils.net_names.fitted import COUNTS
from .given_weights import GivenWeights, read_given_weights
from .trial import built_quietly, try_net


@dataclass(frozen=True)
class TriedNet:
    """A net that works on the images.

    Args:
        named (NamedNet): As it was named.
        net (ConfigDict): Its config, for as many classes as it scores.
        classes (int): How many these are; 0 for a net without a classifier.
        size (int): Of the images that it takes, in pixels.
        wanted_size (int): Of the images that it was to take.
        has_batch_norm (bool): Whether it has batch norm.
        weights (GivenWeights, optional): What it begins with, or is. Defaults to None
            (at random).
    """

    named: NamedNet
    net: ConfigDict
    classes: int
    size: int
    wanted_size: int
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

    def introduce(self) -> None:
        """Print what a person should know of the net."""
        name, weights = self.named.name, self.weights
        if weights is not None:
            print(f'{name}: {weights.shown()}')
            if not self.preprocessor:
                print(
                    'Nothing says how its images were made; data.py has mean and std.'
                )
        if self.size != self.wanted_size:
            wanted = f'{name} takes no images of {self.wanted_size} pixels'
            print(f'{wanted}, and gets {self.size}.')

    def without_classifier(self) -> 'TriedNet | None':
        """Return the net as it was published, if that is without a classifier."""
        weights, backbone = self.weights, self.named.backbone
        if weights is None or backbone is None or weights.has_classifier:
            return None
        whole = replace(weights, is_whole=True, classes=0)
        return replace(self, net=backbone, classes=0, weights=whole)


def tried(
    named: NamedNet,
    key: str,
    file: str | None,
    classes: Names,
    sizes: Sequence[int | None],
    is_taught: bool,
) -> TriedNet:
    """Build a net, read its weights and let it score images.

    Args:
        named (NamedNet): The net.
        key (str): The option that names it, for errors.
        file (str, optional): Its weights. Defaults to None (those that came with it).
        classes (tuple[str, ...]): Names of the images' classes.
        sizes (Sequence[int | None]): Of the images, in pixels; the first that it takes
            is its size. None is no size.
        is_taught (bool): Whether it is the student, who scores these classes alone.

    Raises:
        FileNotFoundError, ValueError: the net or its weights cannot be used.
    """
    named.net, left_out = without_downloads(named.net)
    for source in left_out:
        print(f'{named.name} begins at random: nothing is downloaded ({source}).')
    probe = built_quietly(named, key, len(classes))
    scores = gives_scores(probe)
    if not scores and (is_taught or file is None):
        problem = 'It has no classifier, so it cannot be trained on classes.'
        remedy = 'Name a net that has one.'
        if not is_taught:
            remedy = f'Name a net that has one, or give the weights as {key}-ckpt.'
        raise ValueError(describe(key, named.name, problem, remedy))
    if scores and 'model_name' in named.net and not {*COUNTS} & named.net.keys():
        # What the package of the net takes by default is not what the images have.
        named.net[count_name(probe)] = len(classes)
    build = cache(partial(built_quietly, named, key))
    weights = _weights(named, key, file, classes, build)
    if weights is not None and is_taught:
        weights = weights.as_beginning(len(classes))
    if weights is not None and not scores:
        weights = replace(weights, is_whole=True, classes=0, has_classifier=False)
    count = weights.classes if weights else len(classes)
    net = build(count) if scores else probe
    wanted, *others = [size for size in sizes if size is not None]
    size = try_net(net, named, key, [wanted, *others], count)
    norm = any(isinstance(x, _BatchNorm) for x in net.modules())
    fitted = with_classes(named.net, count) if scores else named.net
    return TriedNet(named, fitted, count, size, wanted, norm, weights)


def _weights(
    named: NamedNet,
    key: str,
    file: str | None,
    classes: Names,
    build: Callable[[int], BaseModel],
) -> GivenWeights | None:
    """Read the weights that were given, or else those that came with the net."""
    if file is not None:
        key = f'{key}-ckpt'
        remedy = f'Give weights of {named.name}, or leave {key} out.'
    elif named.weights is not None:
        file = named.weights
        remedy = f'Save the net there again, or give weights as {key}-ckpt.'
    else:
        return None
    return read_given_weights(file, named, classes, build, key, remedy)
