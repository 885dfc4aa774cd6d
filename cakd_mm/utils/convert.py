"""Conversion of other code bases' weights to checkpoints of mmpretrain."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from mmpretrain.models import build_classifier
from torch import Tensor

from .checkpoint import load_strictly
from .errors import describe, nearest
from .whole_file import whole_file

KEY = '--arch'


@dataclass(frozen=True)
class Arch:
    """A net: the config of its backbone, and the channels of its linear classifier."""

    backbone: dict
    width: int


def add_arguments(parser: argparse.ArgumentParser, archs: Mapping[str, Arch]) -> None:
    """Add the arguments that all converters share."""
    parser.add_argument('out', type=Path, help='where the mmpretrain checkpoint goes')
    parser.add_argument(KEY, choices=sorted(archs), required=True)
    parser.add_argument(
        '--num-classes', type=int, help='what the file must score; default: as it does'
    )


def find_arch(name: str, archs: Mapping[str, Arch]) -> Arch:
    """Return the net of that name, or raise ValueError if there is none."""
    if name not in archs:
        remedy = f'Use one of these: {nearest(name, archs)}.'
        raise ValueError(describe(KEY, name, 'Not converted here.', remedy))
    return archs[name]


def write_classifier(
    weights: Mapping[str, Tensor],
    name: str,
    archs: Mapping[str, Arch],
    out: Path,
    source: str,
    num_classes: int | None = None,
) -> None:
    """Check renamed weights against mmpretrain's model, and write a checkpoint.

    Args:
        weights: Named as an ``ImageClassifier`` names them.
        name: A key of ``archs``.
        archs: The nets of that source.
        out: Path of the checkpoint to write.
        source: Origin of the weights, for the checkpoint's ``meta``.
        num_classes: Classes that the file must score. Defaults to None (any number).

    Raises:
        ValueError: the name is unknown, or the weights have another net's names or
            shapes, or another number of classes.
    """
    arch = find_arch(name, archs)
    if num_classes is None:
        # If there is no bias, the strict check below says what is missing.
        num_classes = len(weights.get('head.fc.bias', [None] * 1000))
    model = build_classifier(
        dict(
            type='ImageClassifier',
            backbone=arch.backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead', num_classes=num_classes, in_channels=arch.width
            ),
        )
    )
    remedy = 'Name the net, and the number of classes, the file belongs to.'
    load_strictly(model, weights, KEY, name, remedy)
    out.parent.mkdir(parents=True, exist_ok=True)
    meta = dict(arch=name, source=source)
    with whole_file(out) as file:
        torch.save(dict(meta=meta, state_dict=dict(weights)), file)
