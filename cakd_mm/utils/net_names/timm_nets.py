"""Nets of timm by name."""

from importlib.util import find_spec

from ..errors import describe, nearest
from .fitted import with_classes
from .named import NamedNet, in_pixels, plain_net


def timm_names() -> list[str]:
    """Return the names of timm's nets, none without timm."""
    if find_spec('timm') is None:
        return []
    import timm

    return timm.list_models()


def of_timm(rest: str, name: str, key: str) -> NamedNet:
    """Return a net of timm, which may have the tag of published weights.

    The tag chooses how images are made, as its weights were trained; no weights are
    read. The net gets a classifier, also one that is published without.

    Raises:
        ImportError: timm is missing.
        ValueError: it has no such net, or the net no such tag.
    """
    if find_spec('timm') is None:
        problem = 'It is a net of timm, which is not installed.'
        raise ImportError(describe(key, name, problem, 'Type: pip install timm'))
    import timm

    arch, _, tag = rest.partition('.')
    # What has another scheme (`hf-hub:`) would be downloaded.
    is_known = timm.is_model(arch)
    tags = timm.list_pretrained(f'{arch}.*') if is_known else []
    known = [arch, *tags] if is_known else timm.list_models()
    if rest not in known:
        what = f'weights {tag!r} of {arch}' if is_known else 'net of that name'
        remedy = f'Like it: {nearest(rest, known, "timm:")}.'
        raise ValueError(describe(key, name, f'timm has no {what}.', remedy))
    published = timm.get_pretrained_cfg(rest)
    net = plain_net('TimmClassifier', model_name=rest, num_classes=1000)
    found = NamedNet(name, net, backbone=with_classes(net, 0))
    if published is not None:
        found.preprocessor = in_pixels(published.mean, published.std)
        found.size = published.input_size[-1]
    return found
