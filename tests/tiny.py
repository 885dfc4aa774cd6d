"""Shipped configs cut down to a size that trains in seconds."""

import copy
import functools
import io
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from cakd_mm.utils.tools import tool

# isort: split
from mmrazor.registry import MODELS as RAZOR_MODELS  # needs cakd_mm first

CONFIGS = tool('train.py').parents[1] / 'configs'
# Three steps an epoch that cost less; options of `digits_config`.
SMALL = dict(images=24, train_dataloader__batch_size=8)
# Of the config of a net of transformers.
SMALL_TRANSFORMER = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=16,
    patch_size=8,
)


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


def distillation(
    distiller: dict, student: dict, teacher: dict, **options: Any
) -> torch.nn.Module:
    """Build a distillation by a random teacher, the same at every call."""
    cfg = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture=student,
        teacher=teacher,
        allow_random_teacher=True,
        distiller=distiller,
        **options,
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return RAZOR_MODELS.build(copy.deepcopy(cfg)).train()


def batch_of(model: torch.nn.Module, count: int = 6) -> dict:
    """Preprocess a training batch of images of noise, whose labels are 0, 1, 2 ..."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(
        0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator
    )
    samples = [DataSample().set_gt_label(index % 10) for index in range(count)]
    return model.data_preprocessor(dict(inputs=images, data_samples=samples), True)


def save_teacher(path: Path, seed: int = 0) -> Path:
    """Write a randomly initialised resnet20 as a teacher's checkpoint."""
    file, random_state = _teacher(seed)
    path.write_bytes(file)
    # What a test draws next is the same, whether the teacher was made just now or not.
    torch.set_rng_state(random_state)
    return path


@functools.cache
def _teacher(seed: int) -> tuple[bytes, torch.Tensor]:
    """Return the file of a teacher, and the random state after it was made."""
    torch.manual_seed(seed)
    teacher = build(Config.fromfile(CONFIGS / 'vanilla/resnet20_digits.py').model)
    teacher.init_weights()
    file = io.BytesIO()
    torch.save(dict(meta={}, state_dict=teacher.state_dict()), file)
    return file.getvalue(), torch.get_rng_state()


def distill_config(
    tmp_path: Path, name: str = 'cakd/demo_digits.py', **options
) -> Config:
    """Load a config of CAKD with a random teacher saved in ``tmp_path``."""
    checkpoint = save_teacher(tmp_path / 'teacher.pth')
    options.setdefault('model__teacher_ckpt', str(checkpoint))
    return digits_config(name, **options)
