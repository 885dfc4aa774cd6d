"""Reads torchvision's weights and renames them to those of mmpretrain's nets."""

import re
from collections.abc import Mapping

import torchvision
from torch import Tensor

from .checkpoint import read_foreign_weights
from .convert import Arch


def _resnet(depth: int, width: int) -> Arch:
    return Arch(dict(type='ResNet', depth=depth, out_indices=(3,)), width)


ARCHS = {
    'resnet18': _resnet(18, 512),
    'resnet34': _resnet(34, 512),
    'resnet50': _resnet(50, 2048),
    'mobilenetv2': Arch(dict(type='MobileNetV2', widen_factor=1.0), 1280),
}
# Names of published weights that are spelled in another way.
PUBLISHED = {'mobilenetv2': 'mobilenet_v2'}
# Blocks in each stage of MobileNetV2. Torchvision numbers them across all stages.
STAGES = (1, 2, 3, 4, 3, 3, 1)


def read_torchvision(source: str, arch: str) -> dict[str, Tensor]:
    """Read a torchvision state dict from a file or from published weights.

    Args:
        source: Path of a ``.pth`` file, or a name such as ``IMAGENET1K_V1``.
        arch: One of :data:`ARCHS`.

    Raises:
        FileNotFoundError: there is neither such a file nor such weights.
        ValueError: the file is not a checkpoint.
    """
    enum = torchvision.models.get_model_weights(PUBLISHED.get(arch, arch))
    names = [weight.name for weight in enum]
    if source in names:
        return enum[source].get_state_dict(progress=True, check_hash=True)
    remedy = f'Give a .pth file or one of {", ".join(names)}.'
    return read_foreign_weights(source, 'source', remedy)


def convert_torchvision_state_dict(
    state_dict: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Rename a torchvision net's weights to those of an ``ImageClassifier``.

    Args:
        state_dict: Weights of a ResNet or a MobileNetV2.
    """
    rename = _mobilenet if 'features.0.0.weight' in state_dict else _residual
    return {rename(name): value for name, value in state_dict.items()}


def _residual(name: str) -> str:
    return f'head.{name}' if name.startswith('fc.') else f'backbone.{name}'


def _mobilenet(name: str) -> str:
    """Rename a weight of MobileNetV2; a name of another net stays as it is."""
    if match := re.fullmatch(r'classifier\.1\.(weight|bias)', name):
        return f'head.fc.{match[1]}'
    layers = {'0': 'conv', '1': 'bn'}
    last = sum(STAGES) + 1
    if match := re.fullmatch(rf'features\.(0|{last})\.([01])\.(\w+)', name):
        outer = 'conv1' if match[1] == '0' else 'conv2'
        return f'backbone.{outer}.{layers[match[2]]}.{match[3]}'
    match = re.fullmatch(r'features\.(\d+)\.conv\.(\d)(?:\.([01]))?\.(\w+)', name)
    if match is None or not 0 < int(match[1]) < last:
        return name
    # In a block, an entry is a convolution with its normalisation, but the last two
    # entries are the projection and the normalisation of the projection. The
    # projection of the first block is entry 1, because that block does not expand.
    branch, layer = int(match[2]), match[3]
    if layer is None:
        projection = 1 if match[1] == '1' else 2
        branch, layer = projection, str(branch - projection)
    if layer not in layers:
        return name
    stage, block = _stage(int(match[1]))
    return f'backbone.layer{stage}.{block}.conv.{branch}.{layers[layer]}.{match[4]}'


def _stage(place: int) -> tuple[int, int]:
    """Return stage, from 1, and block of that stage, from 0, for the n-th block."""
    place -= 1
    for stage, blocks in enumerate(STAGES, 1):
        if place < blocks:
            return stage, place
        place -= blocks
    raise IndexError(place)
