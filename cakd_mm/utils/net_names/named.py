"""What a name says about a net."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import ConfigDict

from ..class_names import Names


@dataclass
class NamedNet:
    """A net as its name or config says it.

    Args:
        name (str): What it was called.
        net (ConfigDict): Its config, whole, with names in the place of classes.
        preprocessor (dict): Its images' ``mean``, ``std`` and ``to_rgb``, as far as
            its config, or who published it, says them. Defaults to {}.
        imports (list[str]): Modules that its config imports. Defaults to [].
        size (int, optional): Of the images that it was published for, in pixels.
            Defaults to None (unknown).
        weights (str, optional): A file of its weights that came with it. Defaults to
            None.
        classes (tuple[str, ...], optional): What the published net calls its classes.
            Defaults to None.
        backbone (ConfigDict, optional): The config of the same net without its
            classifier. Defaults to None.
    """

    name: str
    net: ConfigDict
    preprocessor: dict[str, Any] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)
    size: int | None = None
    weights: str | None = None
    classes: Names | None = None
    backbone: ConfigDict | None = None


def plain_net(kind: str, **arguments: Any) -> ConfigDict:
    """Return the config of a net of another package, in a class of mmpretrain's."""
    return ConfigDict(type=kind, _scope_='mmpretrain', **arguments)


def in_pixels(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Return a preprocessor's statistics from those of RGB images in 0..1."""
    return dict(
        mean=[round(255 * x, 3) for x in mean],
        std=[round(255 * x, 3) for x in std],
        to_rgb=True,
    )
