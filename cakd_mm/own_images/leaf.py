"""The configs that are written for a person's images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..datasets.class_folders import ClassFolders
from .methods import method_file
from .settings import Settings

# What most published weights were trained with; a net that begins at random learns
# from images of any mean.
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

DATA = """\
# {train} images to train on and {val} to score, of the classes in
# {root!r}
# train.txt and val.txt name them, a line each with the number of the class.
root = {root!r}
lists = {lists!r}
classes = {classes!r}
data_preprocessor = dict(
    num_classes=len(classes),
    mean={mean},
    std={std},
    to_rgb=True,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale={size}, crop_ratio_range=({least}, 1.0)),
{flip}    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale={edge}, edge='short'),
    dict(type='CenterCrop', crop_size={size}),
    dict(type='PackInputs'),
]
images = dict(type='CustomDataset', data_root=root, metainfo=dict(classes=classes))
loader = dict(
    batch_size={batch_size}, num_workers={workers}, persistent_workers={persistent}
)
train_dataloader = dict(
    dataset=dict(ann_file=f'{{lists}}/train.txt', pipeline=train_pipeline, **images),
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
    **loader,
)
val_dataloader = dict(
    dataset=dict(ann_file=f'{{lists}}/val.txt', pipeline=test_pipeline, **images),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
del root, lists, classes, images, loader
"""
# Letters and digits are not mirrored, photographs are.
FLIP = "    dict(type='RandomFlip', prob=0.5, direction='horizontal'),\n"

SCHEDULE = """\
_base_ = 'cakd_mm::_base_/default_runtime.py'

# The rate of each net is in its own file; it is for this many images in a step.
auto_scale_lr = dict(base_batch_size={batch_size})
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)
train_cfg = dict(type='ResumableTrainLoop', max_epochs={epochs}, val_interval=1)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed={seed})
"""

NET = """\
# {title}
_base_ = ['data.py', 'schedule.py']

work_dir = {work_dir!r}
"""

STUDENT = """\
# The net of alone.py, on its images and schedule, with a teacher.
_base_ = ['alone.py', 'cakd_mm::_base_/methods/{method}.py']

{numbers}model = dict(
    _delete_=True,
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(cfg_path='alone.py'),
    teacher=dict(cfg_path='teacher.py'{resized}),
    teacher_ckpt={teacher_ckpt},
{rest}    distiller=_base_.distiller,
)
work_dir = {work_dir!r}
"""

RESIZED = """
# This net does not take images of {other} pixels, so they are resized for it.
_base_.train_pipeline.insert(-1, dict(type='Resize', scale=({size}, {size})))
_base_.test_pipeline.insert(-1, dict(type='Resize', scale=({size}, {size})))
train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
"""


def data_text(folders: ClassFolders, settings: Settings, out: Path) -> str:
    """Return ``data.py``: the images, and what is made of them."""
    photographs = settings.are_photographs
    return DATA.format(
        train=len(folders.train),
        val=len(folders.val),
        root=str(folders.root),
        lists=str(out),
        classes=list(folders.classes),
        mean=MEAN,
        std=STD,
        size=settings.size,
        least=0.35 if photographs else 0.7,
        flip=FLIP if photographs else '',
        edge=round(settings.size * 256 / 224) if photographs else settings.size,
        batch_size=settings.batch_size,
        workers=settings.workers,
        persistent=settings.workers > 0,
    )


def schedule_text(settings: Settings, seed: int) -> str:
    """Return ``schedule.py``, which all trainings share."""
    return SCHEDULE.format(
        batch_size=settings.batch_size, epochs=settings.epochs, seed=seed
    )


def net_text(
    title: str,
    net: ConfigDict,
    work_dir: Path,
    optimizer: dict,
    imports: list[str],
    preprocessor: Mapping[str, Any] | None = None,
    load_from: str | None = None,
) -> str:
    """Return the config of a plain classifier.

    Args:
        title (str): What it is, a sentence.
        net (ConfigDict): The net.
        work_dir (Path): Where it is trained.
        optimizer (dict): What trains it.
        imports (list[str]): Modules that have parts of it.
        preprocessor (Mapping, optional): ``mean``, ``std`` and ``to_rgb`` of its
            images. Defaults to None, those of ``data.py``.
        load_from (str, optional): Weights to begin with. Defaults to None.
    """
    written: dict[str, Any] = {}
    if imports:
        written['custom_imports'] = dict(imports=['cakd_mm', *imports])
    if load_from is not None:
        written['load_from'] = load_from
    if preprocessor:
        written['data_preprocessor'] = dict(preprocessor)
    written['optim_wrapper'] = dict(optimizer=optimizer)
    net = ConfigDict(net)
    if net.get('_scope_') == 'mmpretrain':
        del net['_scope_']
    written['model'] = net
    text = NET.format(title=title, work_dir=str(work_dir))
    return text + Config(written).pretty_text


def resized_text(size: int, other: int) -> str:
    """Return what a net's config has besides if it takes images of its own size."""
    return RESIZED.format(size=size, other=other)


def student_text(
    method: str,
    teacher_ckpt: str,
    teacher_from: str | None,
    chosen: Sequence[str | int] | None,
    work_dir: Path,
    teacher_size: int | None = None,
) -> str:
    """Return ``student.py``: the student with its teacher.

    Args:
        method (str): The name of the method's base.
        teacher_ckpt (str): The teacher's weights, as an expression of Python.
        teacher_from (str, optional): The command that makes them.
        chosen (Sequence, optional): The teacher's classes that teach, by name or
            number.
        work_dir (Path): Where it is trained.
        teacher_size (int, optional): What images are resized to for the teacher.
            Defaults to None (not at all).
    """
    rest = ''
    if teacher_from is not None:
        rest += f'    teacher_from={teacher_from!r},\n'
    if chosen is not None:
        rest += f'    teacher_classes={list(chosen)!r},\n'
    resized = f', data_preprocessor=dict(size={teacher_size})' if teacher_size else ''
    return STUDENT.format(
        method=method,
        resized=resized,
        numbers=_numbers(method),
        teacher_ckpt=teacher_ckpt,
        rest=rest,
        work_dir=str(work_dir),
    )


def _numbers(method: str) -> str:
    """Return lines that set a method's numbers to what its base has, to be changed."""
    base = Config.fromfile(method_file(method))
    lines = []
    for name, written in base.distiller.distill_losses.items():
        numbers = ', '.join(
            f'{key}={value!r}'
            for key, value in written.items()
            if isinstance(value, (int, float))
        )
        if numbers:
            loss = f'_base_.distiller.distill_losses.{name}'
            lines.append(f'{loss}.update(\n    {numbers}\n)\n')
    return ''.join(lines)
