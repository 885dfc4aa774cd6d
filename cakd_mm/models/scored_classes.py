"""Whether a net scores classes, how many, and which config key says so."""

from typing import Any

from torch import nn

from .recorders.taps import points_of


def classes_of(model: Any) -> int | None:
    """Return the number (lead's)."""
    head = getattr(model, 'head', None)
    if head is not None:
        return getattr(head, 'num_classes', None)
    inner = getattr(model, 'model', None)
    count = getattr(inner, 'num_classes', None)
    if count is None and hasattr(inner, 'classifier'):
        count = getattr(getattr(inner, 'config', None), 'num_labels', None)
    return count or None


def classifier_of(model: Any) -> str | None:
    """Return the path (lead's)."""
    count, found = classes_of(model), None
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and layer.out_features == count:
            found = name
    return found


def gives_scores(net: nn.Module) -> bool:
    """Tell whether a net has a classifier; without one it gives features alone."""
    has_head = getattr(net, 'head', None) is not None
    return has_head or classes_of(net) is not None or 'logits' in points_of(net)


def classes_key(net: nn.Module, key: str) -> str:
    """Return the config key that says how many classes a net scores.

    Args:
        net (nn.Module): A classifier of any kind.
        key (str): The config key of the net.
    """
    if getattr(net, 'head', None) is not None:
        return f'{key}.head.num_classes'
    config = getattr(getattr(net, 'model', None), 'config', None)
    return f'{key}.{"num_labels" if hasattr(config, "num_labels") else "num_classes"}'
