"""Errors of running a net name the config key of what does not fit."""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import nn

from ...utils.building import naming_use, places_of, settings_of

TEACHER = 'model.teacher'
# How transformers of timm and of Hugging Face begin to refuse images.
REFUSALS = 'Input height', 'Input width', 'Input image size'


def naming_net(
    net: nn.Module, key: str, size: tuple[int, int] | None = None
) -> AbstractContextManager[None]:
    """Let errors of running a net name the key of the part that does not fit.

    Args:
        net (nn.Module): The net.
        key (str): The key of its config.
        size (tuple[int, int], optional): What a teacher's images are resized to.
            Defaults to None (as they are).
    """
    return naming_use(type(net).__name__, key, '...', partial(_places, net, key, size))


def _places(
    net: nn.Module, key: str, size: tuple[int, int] | None
) -> dict[str, tuple[str, Any]]:
    """Return what an error of a net may be about: its parts, and the head's widths."""
    if hasattr(net, 'model'):  # of others, which is inside
        images: tuple[str, Any] = 'train_dataloader.dataset.pipeline', '...'
        if key.startswith(TEACHER):
            images = f'{key}.data_preprocessor.size', size
        own = places_of({'type': type(net).__name__}, key)
        return own | dict.fromkeys(REFUSALS, images)
    parts = {name: getattr(net, name, None) for name in ('backbone', 'neck', 'head')}
    kinds = {name: part and type(part).__name__ for name, part in parts.items()}
    return places_of(kinds, key) | settings_of(parts['head'], f'{key}.head')
