"""Torchvision's published weights as mmpretrain checkpoints."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from mmpretrain.models import build_classifier
from torch import Tensor

from .checkpoint import load_strictly, read_checkpoint
from .errors import describe

# Architecture to depth and width of the pooled feature.
ARCHS = {'resnet18': (18, 512), 'resnet34': (34, 512), 'resnet50': (50, 2048)}


def read_torchvision(source: str, arch: str) -> dict[str, Tensor]:
    """Read a torchvision state dict from a file or from published weights.

    Args:
        source: Path of a ``.pth`` file, or a name such as ``IMAGENET1K_V1``.
        arch: One of :data:`ARCHS`.

    Raises:
        FileNotFoundError: neither a file nor published weights.
        ValueError: the file is not a checkpoint.
    """
    names = [weight.name for weight in torchvision.models.get_model_weights(arch)]
    if source in names:
        weights = torchvision.models.get_model_weights(arch)[source]
        return weights.get_state_dict(progress=True, check_hash=True)
    remedy = f'Give a .pth file or one of {", ".join(names)}.'
    checkpoint = read_checkpoint(source, 'source', remedy)
    return checkpoint.get('state_dict', checkpoint)


def convert_torchvision(weights: Mapping[str, Tensor], arch: str, out: Path) -> None:
    """Rename, check against mmpretrain's model of that depth, and write.

    Args:
        weights: A torchvision state dict.
        arch: One of :data:`ARCHS`.
        out: Path of the checkpoint to write.

    Raises:
        ValueError: unknown ``arch``, or weights of another net or another number
            of classes than the file says.
    """
    if arch not in ARCHS:
        raise ValueError(
            describe('--arch', arch, 'Not converted here.', f'Use one of {[*ARCHS]}.')
        )
    depth, width = ARCHS[arch]
    renamed = {
        f'head.{name}' if name.startswith('fc.') else f'backbone.{name}': value
        for name, value in weights.items()
    }
    classes = len(weights['fc.bias']) if 'fc.bias' in weights else 1000
    model = build_classifier(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet', depth=depth, out_indices=(3,)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=classes, in_channels=width),
        )
    )
    load_strictly(model, renamed, '--arch', arch, 'Name the net the file belongs to.')
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        dict(meta=dict(arch=arch, source='torchvision'), state_dict=renamed), out
    )
