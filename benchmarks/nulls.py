"""What the benchmarks of the toolbox need: nets of nearly nothing, a loop in steps."""

import tempfile
import uuid
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS, MODELS
from torch import Tensor

from cakd_mm.engine.loops import ResumableTrainLoop

CLASSES = 100


@MODELS.register_module()
class NullBackbone(BaseModule):
    """Takes one pixel of an image: what is left of a step is the toolbox."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Map (N, 3, H, W) to (N, 3)."""
        return (x[:, :, 0, 0],)


@DATASETS.register_module()
class RandomImages(BaseDataset):
    """Noise of 32 x 32 pixels in memory, as CIFAR is.

    Args:
        count (int): Number of images. Defaults to 12,800.
        **kwargs: As in mmpretrain.
    """

    def __init__(self, count: int = 12800, **kwargs) -> None:
        self.count = count
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return ``img`` (32, 32, 3) uint8 and ``gt_label`` of every image."""
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (self.count, 32, 32, 3), dtype=np.uint8)
        labels = generator.integers(0, CLASSES, self.count).tolist()
        return [
            dict(img=image, gt_label=label)
            for image, label in zip(images, labels, strict=True)
        ]


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


def started(cfg: Config) -> tuple[Runner, SteppedLoop | SteppedStockLoop]:
    """Return a runner at its first step, and its loop."""
    cfg.setdefault('launcher', 'none')
    cfg.work_dir = tempfile.mkdtemp(prefix='benchmark-')
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


def hand_written(model, lr: float = 0.05):
    """Return a step as one would write it for these two nets: images, labels -> None.

    The same nets, loss and arithmetic as the algorithm's; no registry, no recorder.
    """
    student, teacher = model.student, model.teacher
    loss_cakd = model.distiller.distill_losses['loss_cakd']
    preprocessor = model.data_preprocessor
    mean, std = preprocessor.mean, preprocessor.std
    optimizer = torch.optim.SGD(
        student.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4
    )

    def step(images: Tensor, labels: Tensor) -> None:
        inputs = (images.float() - mean) / std
        with torch.no_grad():
            preds_T = teacher(inputs)
        preds_S = student(inputs)
        loss = torch.nn.functional.cross_entropy(preds_S, labels)
        (loss + loss_cakd(preds_S, preds_T, labels)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def options(resident: bool, stock: bool, batch_size: int = 64) -> dict:
    """Return what both toolboxes' runs have in common: data, schedule, hooks."""
    pipeline = [
        dict(type='RandomCrop', crop_size=32, padding=4),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs'),
    ]
    loop = dict(type='SteppedStockLoop' if stock else 'SteppedLoop', max_epochs=10**6)
    return dict(
        data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=False),
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=0,
            dataset=dict(type='RandomImages', pipeline=pipeline),
            sampler=dict(type='DefaultSampler', shuffle=True),
            **({} if stock else dict(collate_fn=dict(type='default_collate'))),
        ),
        train_cfg=loop if stock else dict(loop, resident=resident),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
        ),
        param_scheduler=dict(type='MultiStepLR', by_epoch=True, milestones=[10**5]),
    )
