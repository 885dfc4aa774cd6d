"""Configs of nets made to fit: another number of classes, and no downloads."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict

# What a config calls the number of classes; transformers has the second name.
COUNTS = ('num_classes', 'num_labels')


def with_classes(net: ConfigDict, classes: int) -> ConfigDict:
    """Return a net's config for another number of classes.

    Each ``num_classes`` is changed, also that of the head's loss and of a backbone that
    ends in a classifier, and each ``num_labels``. Mixing of batches is left out,
    because that is done where the batches are made.
    """
    net = ConfigDict(_count(net.to_dict(), classes))
    net.pop('train_cfg', None)
    return net


def _count(node: Any, classes: int) -> Any:
    if isinstance(node, Mapping):
        return {
            key: classes if key in COUNTS else _count(value, classes)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return type(node)(_count(value, classes) for value in node)
    return node


def without_downloads(net: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """Return a net's config without weights that lie on a server, and where these lie.

    ``init_cfg`` names such weights, in the net or in a part of it, and
    ``pretrained=True`` asks timm or transformers for them.
    """
    left_out = list(_drop_remote(net))
    if net.get('pretrained') is True and not Path(str(net.get('model_name'))).is_dir():
        del net['pretrained']
        left_out.append(f'pretrained=True of {net.get("model_name")}')
    return net, left_out


def _drop_remote(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for part in node:
            yield from _drop_remote(part)
    if not isinstance(node, dict):
        return
    init = node.get('init_cfg')
    checkpoint = init.get('checkpoint') if isinstance(init, Mapping) else None
    if isinstance(checkpoint, str) and '://' in checkpoint:
        del node['init_cfg']
        yield checkpoint
    for part in node.values():
        yield from _drop_remote(part)
