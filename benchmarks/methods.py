"""Every method of classifiers, on small nets that have its taps."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from steps import CLASSES, CONFIGS, classifier, resnet

from cakd_mm.own_images.methods import classifier_methods

METHODS = {name: CONFIGS / f'_base_/methods/{name}.py' for name in classifier_methods()}
BATCH_SIZE, SIZE = 4, 32


def nets(method: str) -> tuple[dict, dict]:
    """Return the configs of a teacher and a student that a method can tap."""
    teacher, student = resnet(8), resnet(8)
    if method.endswith('_in1k'):
        teacher = student = classifier(dict(type='ResNet', depth=18), 512)
    if method == 'deit':
        arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
        backbone = dict(type='DistilledVisionTransformer', arch=arch, img_size=SIZE)
        student = classifier(dict(backbone, patch_size=8), 16, neck=False)
        student['head']['type'] = 'DeiTClsHead'
    if method == 'norm':
        widths = dict(in_channels=64, teacher_channels=64)
        student['neck'] = dict(type='NORMNeck', segments=2, **widths)
    return teacher, student


def distiller(method: str) -> dict:
    """Return the config of a method's distiller."""
    return Config.fromfile(METHODS[method]).distiller


def algorithm(method: str) -> Any:
    """Return a method's algorithm, whose losses know a set of images of all classes."""
    teacher, student = nets(method)
    model = built(
        type='FrozenTeacherDistill',
        architecture=student,
        teacher=teacher,
        distiller=distiller(method),
        data_preprocessor=dict(num_classes=CLASSES),
    )
    for loss in model.distiller.losses().values():
        if loss.needs_dataset:
            loss.set_dataset(torch.arange(2 * CLASSES) % CLASSES, batch_size=BATCH_SIZE)
        if loss.needs_epoch:
            loss.set_epoch(0)
    return model


def built(**model: Any) -> Any:
    """Build an algorithm with a teacher of random weights."""
    model |= dict(_scope_='mmrazor', teacher_ckpt=None, allow_random_teacher=True)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(model)


def batch(model: Any, index: int) -> dict:
    """Return a batch of noise as an ordinary loader gives it, and name its images.

    Args:
        model: Of :func:`algorithm`; its losses are told which images these are.
        index (int): Of the batch; each has other images.
    """
    indices = range(index * BATCH_SIZE, (index + 1) * BATCH_SIZE)
    for loss in model.distiller.losses().values():
        loss.indices = torch.tensor(indices)
    return dict(
        inputs=torch.randint(256, (BATCH_SIZE, 3, SIZE, SIZE), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i % CLASSES) for i in indices],
    )
