"""Tells losses with a memory of the training set which images a batch is of."""

from contextlib import suppress

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor

from ...datasets.label_batch import LabelBatch
from ...models.losses.base import DistillLoss, losses_of
from ...utils.errors import describe
from ...utils.model import unwrap

KEY = 'train_dataloader.dataset'


@HOOKS.register_module()
class SampleIndexHook(Hook):
    """Hand the training set's labels, and every batch's indices, to losses.

    Before training each loss that needs it (:attr:`DistillLoss.needs_dataset`) is
    given the labels of the training set, the run's seed and the batch size; before
    every step ``indices``, the places of the batch's images in that set,
    int64, (N,), on the host. They are the ``sample_idx`` that every mmengine
    ``BaseDataset`` puts into its items and ``PackInputs`` keeps by default, so
    nothing else has to be written than
    ``default_hooks=dict(sample_index=dict(type='SampleIndexHook'))``. Without such a
    loss it does nothing.

    Raises:
        ValueError: the set has no class index for every image or numbers its
            images twice, images are mixed, a batch has no indices, or an index does
            not belong to the image of that place.
    """

    def __init__(self) -> None:
        self._labels = np.zeros(0, dtype=np.int64)
        self._losses: list[DistillLoss] = []

    def before_run(self, runner) -> None:
        """Set the losses up, before a checkpoint is loaded into them."""
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):  # validation or test
            return
        model = unwrap(runner.model)
        self._losses = [loss for loss in losses_of(model) if loss.needs_dataset]
        if not self._losses:
            return
        augments = getattr(model.data_preprocessor, 'batch_augments', None)
        if augments is not None:
            raise ValueError(
                describe(
                    'data_preprocessor.batch_augments',
                    type(augments).__name__,
                    f'{self._names()} knows images by their place in the training set, '
                    'and mixed ones have none.',
                    'Remove batch_augments, or use another loss.',
                )
            )
        self._labels = self._read_labels(loop.dataloader.dataset)
        batch_size = getattr(loop.dataloader.batch_sampler, 'batch_size', 0)
        for loss in self._losses:
            loss.set_dataset(self._labels, _seed(runner), batch_size)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Hand over the indices of the batch about to be trained on."""
        if not self._losses:
            return
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else []
        if isinstance(samples, LabelBatch):
            indices, labels = samples.sample_idx, samples.gt_label.numpy()
        else:
            samples = samples if isinstance(samples, (list, tuple)) else []
            indices, labels = self._read_batch(samples)
        self._check(samples, indices, labels)
        for loss in self._losses:
            loss.indices = torch.from_numpy(indices)

    def _read_batch(self, samples) -> tuple[np.ndarray, np.ndarray]:
        """Return index and class of each sample, -1 for one without a class."""
        indices = [sample.get('sample_idx') for sample in samples]
        if not indices or not all(isinstance(i, (int, np.integer)) for i in indices):
            raise ValueError(
                describe(
                    f'{KEY}.pipeline',
                    f'sample_idx {indices[:3]}',
                    f'{self._names()} needs the index of every image, which this '
                    'batch does not have.',
                    "End the pipeline with dict(type='PackInputs'); if that sets "
                    "meta_keys, add 'sample_idx'.",
                )
            )
        labels = [sample.get('gt_label') for sample in samples]
        labels = [
            int(label) if isinstance(label, Tensor) and label.numel() == 1 else -1
            for label in labels
        ]
        return np.array(indices), np.array(labels)

    def _names(self) -> str:
        return ', '.join(sorted({loss.class_name for loss in self._losses}))

    def _read_labels(self, dataset) -> np.ndarray:
        """Return the class of every image of the set that indices count in."""
        # Wrappers that repeat images keep the index of the image itself.
        while not hasattr(dataset, 'get_gt_labels') and hasattr(dataset, 'dataset'):
            dataset = dataset.dataset
        problem = 'is no set of images with one class index each'
        labels = np.zeros(())
        if not hasattr(dataset, 'get_gt_labels'):
            problem = 'has no get_gt_labels(), which tells the class of every image'
        else:
            # It fails if there are no labels, or several.
            with suppress(ValueError, TypeError, KeyError):
                labels = np.asarray(dataset.get_gt_labels())
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                describe(
                    KEY,
                    type(dataset).__name__,
                    f'It {problem}, as {self._names()} needs.',
                    'Use one dataset of single-label images (of several make one '
                    'CustomDataset), or another loss.',
                )
            )
        return labels

    def _check(self, samples, indices: np.ndarray, labels: np.ndarray) -> None:
        """Refuse an index whose image in the training set has another class."""
        size = len(self._labels)
        inside = (indices >= 0) & (indices < size)
        right = inside & (self._labels[np.where(inside, indices, 0)] == labels)
        if right.all():
            return
        wrong = int(np.flatnonzero(~right)[0])
        there = f'class {self._labels[indices[wrong]]}' if inside[wrong] else 'nothing'
        raise ValueError(
            describe(
                KEY,
                f'sample_idx {indices[wrong]}',
                f'{samples[wrong].get("img_path", f"image {wrong} of the batch")} has '
                f'class {labels[wrong]}, but the set of {size} images has {there} '
                'there: its items are numbered otherwise than its labels, or their '
                'labels were changed.',
                'Use one dataset (no concatenation) whose pipeline keeps sample_idx '
                'and gt_label.',
            )
        )


def _seed(runner) -> int:
    """Return the seed that all ranks share."""
    apart = runner._randomness_cfg.get('diff_rank_seed', False)
    return runner.seed - (get_rank() if apart else 0)
