"""What the benchmarks of whole steps share: data, algorithms, a loop in steps."""

import atexit
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS, MODELS
from torch import Tensor

from cakd_mm.engine.launch import adapt_to_device
from cakd_mm.engine.loops import ResumableTrainLoop

CLASSES = 100
CONFIGS = Path(__file__).parent.parent / 'configs'


@MODELS.register_module()
class NullBackbone(BaseModule):
    """Takes one pixel of an image, so that a step is the work of the toolbox alone."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Map (N, 3, H, W) to (N, 3)."""
        return (x[:, :, 0, 0],)


@DATASETS.register_module()
class RandomImages(BaseDataset):
    """Noise in memory, as CIFAR is, or in jpgs, as Tiny-ImageNet is.

    Args:
        size (int): Height and width.
        folder (str, optional): Where jpgs are written; None keeps the images in memory.
        **kwargs: As in mmpretrain.
    """

    # Of 32 pixels, and at least: an epoch of large images has some batches, too.
    COUNTS = 12800, 2048

    def __init__(self, size: int, folder: str | None = None, **kwargs) -> None:
        self.size = size
        self.folder = folder
        small, least = self.COUNTS
        self.count = max(small * 32**2 // size**2, least)
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return image (size, size, 3) uint8, or its path, and ``gt_label`` of each."""
        generator = np.random.default_rng(0)
        shape = self.count, self.size, self.size, 3
        images = generator.integers(0, 256, shape, dtype=np.uint8)
        labels = generator.integers(0, CLASSES, self.count).tolist()
        found = []
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            if self.folder is None:
                found.append(dict(img=image, gt_label=label))
            else:
                path = f'{self.folder}/{index}.jpg'
                cv2.imwrite(path, image)
                found.append(dict(img_path=path, gt_label=label))
        return found


class _InSteps:
    """A train loop that stops after every step."""

    def run(self) -> None:
        self.runner.call_hook('before_train')
        self.steps = self._generate()

    def _generate(self) -> Iterator[None]:
        while True:
            self.runner.call_hook('before_train_epoch')
            self.runner.model.train()
            seeded = getattr(self, '_dataset', None)
            if seeded is not None:
                seeded.epoch.fill_(self._epoch)
            for index, batch in enumerate(self.dataloader):
                self.run_iter(index, batch)
                yield
            self._epoch += 1

    def step(self) -> None:
        """Train one step, the loader's part of it included."""
        next(self.steps)


@LOOPS.register_module()
class SteppedLoop(_InSteps, ResumableTrainLoop):
    """Ours."""


@LOOPS.register_module()
class SteppedStockLoop(_InSteps, EpochBasedTrainLoop):
    """mmengine's."""


def folder_until_exit() -> str:
    """Make a temporary folder that is gone when this process ends."""
    folder = tempfile.mkdtemp(prefix='benchmark-')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def started(cfg: Config) -> tuple[Runner, SteppedLoop | SteppedStockLoop]:
    """Return a runner at its first step, and its loop."""
    cfg.setdefault('launcher', 'none')
    cfg.work_dir = folder_until_exit()
    cfg.experiment_name = uuid.uuid4().hex
    cfg.log_level = 'ERROR'
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, runner.train_loop


def classifier(backbone: dict, channels: int, neck: bool = True) -> dict:
    """Return the config of a classifier of ``CLASSES`` classes."""
    return dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling') if neck else None,
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=channels),
    )


def ours(
    teacher: dict,
    student: dict,
    batch_size: int,
    resident: bool = True,
    size: int = 32,
    workers: int = 0,
    **model,
) -> Config:
    """Return CAKD between logits, all hooks as shipped."""
    cfg = Config.fromfile(CONFIGS / 'cakd/demo_digits.py')
    for key in ('train_dataloader', 'train_cfg', 'param_scheduler', 'optim_wrapper'):
        cfg.pop(key)
    cfg.update(options(resident, False, batch_size, workers, size))
    cfg.model = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture=student,
        teacher=teacher,
        allow_random_teacher=True,
        distiller=cfg.model.distiller,
        data_preprocessor=cfg.data_preprocessor,
        **model,
    )
    quiet(cfg)
    return cfg


def fast_student(cfg: Config, hook: dict | None, amp: bool) -> Config:
    """Set the student's hook and, if asked, bf16 for all, as ``--amp`` does."""
    if hook is not None:
        cfg.default_hooks.student_runtime = hook
    cfg.launcher = 'none'
    if amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.dtype = 'bfloat16'
    adapt_to_device(cfg)
    return cfg


def stock(teacher: dict, student: dict, *args, **kwargs) -> Config:
    """Return mmrazor's own algorithm with its DKD loss, which is the same loss.

    All other arguments are those of :func:`options`.
    """
    cfg = Config(options(False, True, *args, **kwargs))
    labels = dict(type='ModuleInputs', source='head.loss_module')
    logits = dict(type='ModuleOutputs', source='head.fc')
    loss = dict(type='DKDLoss', tau=4, beta=8.0, reduction='mean')
    mapping = dict(
        preds_S=dict(recorder='logits', from_student=True),
        preds_T=dict(recorder='logits', from_student=False),
        gt_labels=dict(recorder='gt_labels', from_student=True, data_idx=1),
    )
    cfg.default_scope = 'mmpretrain'
    cfg.model = dict(
        _scope_='mmrazor',
        type='SingleTeacherDistill',
        architecture=student,
        teacher=teacher,
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(logits=logits, gt_labels=labels),
            teacher_recorders=dict(logits=logits),
            distill_losses=dict(loss_dkd=loss),
            loss_forward_mappings=dict(loss_dkd=mapping),
        ),
        data_preprocessor=dict(
            type='mmpretrain.ClsDataPreprocessor', **cfg.data_preprocessor
        ),
    )
    cfg.default_hooks = dict(logger=dict(type='LoggerHook', interval=100))
    quiet(cfg)
    return cfg


def quiet(cfg: Config) -> None:
    """Leave out what a benchmark has no use for: validation and checkpoints."""
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key, None)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1)


def hand_written(model, lr: float = 0.05):
    """Return a step, of images and labels, as one would write it for these two nets.

    Nets, loss and arithmetic are the algorithm's, without registry and recorders.
    """
    student, teacher = model.student, model.teacher
    loss_cakd = model.distiller.distill_losses['loss_cakd']
    preprocessor = model.data_preprocessor
    mean, std = preprocessor.mean, preprocessor.std
    optimizer = torch.optim.SGD(
        student.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4
    )

    def step(images: Tensor, labels: Tensor) -> None:
        # Resident data keep labels on the host as well, because hooks look at them.
        labels = labels.to(images.device, non_blocking=True)
        inputs = (images.float() - mean) / std
        with torch.no_grad():
            preds_T = teacher(inputs)
        preds_S = student(inputs)
        loss = torch.nn.functional.cross_entropy(preds_S, labels)
        (loss + loss_cakd(preds_S, preds_T, labels)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def options(
    resident: bool,
    stock: bool,
    batch_size: int,
    workers: int = 0,
    size: int = 32,
    folder: str | None = None,
) -> dict:
    """Return what both toolboxes' runs have in common: data, schedule, hooks."""
    pipeline = [
        *([] if folder is None else [dict(type='LoadImageFromFile')]),
        dict(type='RandomCrop', crop_size=size, padding=size // 8),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs'),
    ]
    dataset = dict(type='RandomImages', size=size, folder=folder, pipeline=pipeline)
    loader = dict(batch_size=batch_size, num_workers=workers, dataset=dataset)
    loader.update(sampler=dict(type='DefaultSampler', shuffle=True))
    # A smaller batch at the end of an epoch would count as a whole one.
    loader.update(drop_last=True, pin_memory=torch.cuda.is_available())
    loop = dict(type='SteppedStockLoop' if stock else 'SteppedLoop', max_epochs=10**6)
    if workers:
        loader.update(persistent_workers=True)
    if not stock:
        loader.update(collate_fn=dict(type='default_collate'))
        loop.update(resident=resident)
    sgd = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
    return dict(
        data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=False),
        train_dataloader=loader,
        train_cfg=loop,
        optim_wrapper=dict(optimizer=sgd),
        param_scheduler=dict(type='MultiStepLR', by_epoch=True, milestones=[10**5]),
    )


def null_net() -> dict:
    """Return the config of a classifier that is a linear layer on one pixel."""
    return classifier(dict(type='NullBackbone'), 3, neck=False)


def resnet(depth: int) -> dict:
    """Return the config of a residual net for images of 32 pixels."""
    return classifier(dict(type='CIFARResNet', depth=depth), 64)


def imagenet_resnet(depth: int) -> dict:
    """Return the config of a residual net for images of 224 pixels."""
    return classifier(dict(type='ResNet', depth=depth), 512)
