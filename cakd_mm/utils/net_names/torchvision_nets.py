"""Nets of torchvision by name."""

from inspect import signature

from torchvision import models

from ..errors import describe, nearest
from .fitted import with_classes
from .named import NamedNet, in_pixels, plain_net


def torchvision_names() -> list[str]:
    """Return the names of torchvision's nets that classify images."""
    return models.list_models(module=models)


def of_torchvision(rest: str, name: str, key: str) -> NamedNet:
    """Return a net of torchvision that classifies images, for its images.

    Raises:
        ValueError: torchvision has no such net.
    """
    known = torchvision_names()
    if rest not in known:
        problem = 'torchvision has no net of that name that classifies images.'
        like = nearest(rest, known, 'torchvision:')
        raise ValueError(describe(key, name, problem, f'Like it: {like}.'))
    images = models.get_model_weights(rest).DEFAULT.transforms()
    net = plain_net('TorchvisionClassifier', model_name=rest, num_classes=1000)
    kind = signature(models.get_model_builder(rest)).return_annotation
    if 'transform_input' in signature(kind).parameters:
        net.transform_input = True  # as its published weights were trained
    seen = in_pixels(images.mean, images.std)
    size = images.crop_size[0]
    return NamedNet(name, net, seen, size=size, backbone=with_classes(net, 0))
