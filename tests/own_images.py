"""Folders of somebody's images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import build

from cakd_mm.own_images.options import Options
from cakd_mm.utils.net_names import named_net, with_classes

CLASSES = ('black', 'grey', 'white')
# As in the config that a checkpoint holds.
PREPROCESSOR = 'data_preprocessor = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)'


def write_images(root: Path, each: int = 12, side: int = 10) -> Path:
    """Write images of three classes, which differ in how bright they are."""
    numbers = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for index in range(each):
            noise = numbers.integers(0, 40, (side, side, 3)) + 100 * label
            cv2.imwrite(str(root / name / f'{index}.png'), noise.astype(np.uint8))
    return root


def options(root: Path, **given) -> Options:
    """Return what is asked for where nothing else is said: tiny nets, one epoch."""
    return Options(**dict(data=root, teacher='resnet8', student='resnet8') | given)


def save_net(path: Path, classes: int, names=None, name='resnet8', **meta) -> str:
    """Write a random net's checkpoint; ``names`` are those of its classes."""
    net = build(with_classes(named_net(name, '').net, classes))
    if names is not None:
        meta['dataset_meta'] = dict(classes=names)
    torch.save(dict(meta=meta, state_dict=net.state_dict()), path)
    return str(path)


def save_vit(path: Path, classes: tuple[str, ...]) -> Path:
    """Write a random net of transformers, as it writes them."""
    transformers = pytest.importorskip('transformers')
    config = transformers.ViTConfig(
        **dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1),
        **dict(intermediate_size=8, image_size=32, patch_size=16),
        id2label=dict(enumerate(classes)),
        label2id={name: label for label, name in enumerate(classes)},
    )
    transformers.ViTForImageClassification(config).save_pretrained(path)
    return path
