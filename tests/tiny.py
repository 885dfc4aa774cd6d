"""Shipped configs cut down to a size that trains in seconds."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from cakd_mm.utils.tools import tool

# isort: split
from mmrazor.registry import MODELS as RAZOR_MODELS  # needs cakd_mm first

CONFIGS = tool('train.py').parents[1] / 'configs'


def digits_config(name: str, images: int = 96, epochs: int = 2, **options) -> Config:
    """Load a Digits config with few images and epochs; ``options`` are merged.

    Keys of ``options`` have ``__`` for the dot: ``model__student_ckpt=...``.
    """
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.indices': images,
            'train_dataloader.batch_size': 32,
            'val_dataloader.dataset.indices': 64,
            'test_dataloader.dataset.indices': 64,
            'train_cfg.max_epochs': epochs,
            **{key.replace('__', '.'): value for key, value in options.items()},
        }
    )
    return cfg


def build(model: dict) -> torch.nn.Module:
    """Build a plain classifier from its config."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(Config(model).copy())


def image_classifier(backbone: dict, width: int, classes: int) -> torch.nn.Module:
    """Build a net of a backbone that puts out ``width`` channels."""
    head = dict(type='LinearClsHead', num_classes=classes, in_channels=width)
    neck = dict(type='GlobalAveragePooling')
    return build(dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head))


def algorithm(cfg: Config) -> torch.nn.Module:
    """Build and initialise a config's algorithm, the same at every call."""
    model = cfg.model.copy()
    model.data_preprocessor = cfg.data_preprocessor
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = RAZOR_MODELS.build(model)
    model.init_weights()
    return model.train()


def save_teacher(path: Path, seed: int = 0) -> Path:
    """Write a randomly initialised resnet20 as a teacher's checkpoint."""
    torch.manual_seed(seed)
    teacher = build(Config.fromfile(CONFIGS / 'vanilla/resnet20_digits.py').model)
    teacher.init_weights()
    torch.save(dict(meta={}, state_dict=teacher.state_dict()), path)
    return path


def distill_config(
    tmp_path: Path, name: str = 'cakd/demo_digits.py', **options
) -> Config:
    """Load a config of CAKD with a random teacher saved in ``tmp_path``."""
    checkpoint = save_teacher(tmp_path / 'teacher.pth')
    options.setdefault('model__teacher_ckpt', str(checkpoint))
    return digits_config(name, **options)
