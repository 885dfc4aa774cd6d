"""Tells losses that remember the training set which images a batch holds."""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor

from ...datasets.label_batch import LabelBatch, sample_indices
from ...datasets.seeded_dataset import SeededDataset, shared_seed
from ...models.losses.base import DistillLoss, losses_of
from ...utils.errors import describe
from ...utils.model import unwrap

KEY = 'train_dataloader.dataset'
# The class of an image whose label is on a device: the host would wait to read it.
UNREAD = -2


@HOOKS.register_module()
class SampleIndexHook(Hook):
    """Give losses the labels of the training set and the indices of every batch.

    A loss that asks for it (:attr:`DistillLoss.needs_dataset`) gets the labels of the
    training set, the run's seed and the batch size before training, and ``indices``
    before every step: the places of the images in that set, int64, (N,), on the host.
    These are the ``sample_idx`` that every mmengine ``BaseDataset`` puts into its items
    and ``PackInputs`` keeps by default, so that no config needs more than
    ``default_hooks=dict(sample_index=dict(type='SampleIndexHook'))``. Without such a
    loss the hook does nothing.

    Raises:
        ValueError: the set has no class index for every image or numbers its images
            twice, images are mixed, a batch has no indices, or the image at an index
            has another class.
    """

    def __init__(self) -> None:
        self._labels = np.zeros(0, dtype=np.int64)
        self._losses: list[DistillLoss] = []

    def before_run(self, runner) -> None:
        """Give the losses the training set, before a checkpoint is loaded."""
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):  # validation or test
            return
        model = unwrap(runner.model)
        self._losses = [loss for loss in losses_of(model) if loss.needs_dataset]
        if not self._losses:
            return
        augments = getattr(model.data_preprocessor, 'batch_augments', None)
        if augments is not None:
            key, name = 'data_preprocessor.batch_augments', type(augments).__name__
            problem = (
                f'{self._names()} knows images by their place in the training set, and '
                'mixed ones have none.'
            )
            remedy = 'Remove batch_augments, or use another loss.'
            raise ValueError(describe(key, name, problem, remedy))
        self._labels = self._read_labels(loop.dataloader.dataset)
        batch_size = getattr(loop.dataloader.batch_sampler, 'batch_size', 0)
        for loss in self._losses:
            loss.set_dataset(self._labels, shared_seed(runner), batch_size)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Give the losses the indices of the batch."""
        if not self._losses:
            return
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else []
        if isinstance(samples, LabelBatch):
            indices = samples.sample_idx
            labels = np.full_like(indices, UNREAD)
            if samples.gt_label.device.type == 'cpu':
                labels = samples.gt_label.numpy()
        else:
            samples = samples if isinstance(samples, (list, tuple)) else []
            indices, labels = self._read_batch(samples)
        self._check(samples, indices, labels)
        for loss in self._losses:
            loss.indices = torch.from_numpy(indices)

    def _read_batch(self, samples) -> tuple[np.ndarray, np.ndarray]:
        """Return index and class of each sample.

        The class is -1 for one without a class, and :data:`UNREAD` on a device.
        """
        indices = sample_indices(samples)
        if indices is None:
            problem = (
                f'{self._names()} needs the index of every image, which this batch '
                'does not have.'
            )
            remedy = (
                "End the pipeline with dict(type='PackInputs'); if that sets "
                "meta_keys, add 'sample_idx'."
            )
            found = [sample.get('sample_idx') for sample in samples[:3]]
            value = f'sample_idx {found}'
            raise ValueError(describe(f'{KEY}.pipeline', value, problem, remedy))
        labels = [_class_in(sample.get('gt_label')) for sample in samples]
        return indices, np.array(labels)

    def _names(self) -> str:
        return ', '.join(sorted({loss.class_name for loss in self._losses}))

    def _read_labels(self, dataset) -> np.ndarray:
        """Return the class of every image of the set to which the indices belong."""
        # A wrapper that repeats images keeps the index of the image itself.
        while type(dataset) is SeededDataset or (
            not hasattr(dataset, 'get_gt_labels') and hasattr(dataset, 'dataset')
        ):
            dataset = dataset.dataset
        problem, labels = 'is no set of images with one class index each', np.zeros(())
        if not hasattr(dataset, 'get_gt_labels'):
            problem = 'has no get_gt_labels(), which tells the class of every image'
        else:
            # Of images with several labels the array cannot be made.
            with suppress(ValueError, TypeError):
                try:
                    labels = np.asarray(dataset.get_gt_labels())
                except KeyError:
                    problem = 'has images without labels'
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            remedy = (
                'Use one dataset of images with one label each (of several make one '
                'CustomDataset with with_label=True), or another loss.'
            )
            problem = f'It {problem}, as {self._names()} needs.'
            raise ValueError(describe(KEY, type(dataset).__name__, problem, remedy))
        return labels

    def _check(self, samples, indices: np.ndarray, labels: np.ndarray) -> None:
        """Refuse an index whose image in the training set has another class."""
        size = len(self._labels)
        inside = (indices >= 0) & (indices < size)
        agrees = self._labels[np.where(inside, indices, 0)] == labels
        right = inside & (agrees | (labels == UNREAD))
        if right.all():
            return
        wrong = int(np.flatnonzero(~right)[0])
        there = f'class {self._labels[indices[wrong]]}' if inside[wrong] else 'nothing'
        problem = (
            f'{samples[wrong].get("img_path", f"image {wrong} of the batch")} has '
            f'class {labels[wrong]}, but the set of {size} images has {there} there: '
            'its items are numbered otherwise than its labels, or their labels were '
            'changed.'
        )
        remedy = (
            'Use one dataset (no concatenation) whose pipeline keeps sample_idx and '
            'gt_label.'
        )
        raise ValueError(describe(KEY, f'sample_idx {indices[wrong]}', problem, remedy))


def _class_in(label: Any) -> int:
    if not isinstance(label, Tensor) or label.numel() != 1:
        return -1
    return int(label) if label.device.type == 'cpu' else UNREAD
