"""Refuses a batch of one image where a part of the model cannot train on one."""

import copy
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import BatchSampler, IterableDataset

from ...models.losses.base import losses_of
from ...utils.compiling import eagerly
from ...utils.errors import describe
from ...utils.model import unwrap
from ...utils.random_states import random_states_kept

KEY = 'train_dataloader'
# How torch's error of normalising over a single value begins.
SINGLE = 'Expected more than 1 value per channel'


@HOOKS.register_module()
class SingleImageHook(Hook):
    """Refuse batches of one image before training, if a part needs more.

    Batch normalisation of pooled features, or of a map of one pixel, has only one value
    per channel then, and PyTorch stops: at the end of the first epoch, where one image
    is left over. If such a batch occurs on any rank, a copy of the model is tried on
    the first image before the first step, because most nets train well on one. Put it
    into ``default_hooks``.

    Raises:
        ValueError: naming the loader, the number of its images and the part.
    """

    # After hooks that change or refuse the batch.
    priority = 'LOW'
    # The images of an epoch, until one is tried; 0 if none has to be.
    _images = 0

    def before_train(self, runner) -> None:
        """Look for batches of one image."""
        self._images = max(all_gather_object(_images_if_one_is_alone(runner)))

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Try one image, which no data set has to be asked for."""
        images, self._images = self._images, 0
        if not images:
            return
        part = _part_that_needs_more(unwrap(runner.model), data_batch)
        if part is None:
            return
        batches = runner.train_dataloader.batch_sampler
        size = getattr(batches, 'batch_size', None)
        place = f'{KEY}.batch_sampler' if _is_written(runner.cfg) else KEY
        alone = 'Each batch is one image'
        key, value, remedy = f'{KEY}.batch_size', size, f'Write {KEY}.batch_size=2 '
        remedy += 'or more.'
        if size != 1:
            alone = f'Of {images} images one is left over and is a batch of its own'
            key, value = f'{place}.drop_last', getattr(batches, 'drop_last', False)
            remedy = f'Write {key}=True, or another {KEY}.batch_size.'
        problem = (
            f'{alone}, and {part} cannot train on it, because it normalises over a '
            'single value per channel then.'
        )
        raise ValueError(describe(key, value, problem, remedy))


def _images_if_one_is_alone(runner) -> int:
    """Return the images of an epoch of this rank, or 0 if no batch of it is one."""
    loader = runner.train_dataloader
    batches: Any = loader.batch_sampler
    sampler: Any = getattr(batches, 'sampler', None)
    if isinstance(loader.dataset, IterableDataset) or not hasattr(batches, '__len__'):
        return 0
    if isinstance(sampler, InfiniteSampler):  # which has no last batch
        return int(batches.batch_size == 1)
    steps = len(batches)
    # The steps to come have to reach the end of an epoch, where one is left over.
    if not steps or runner.max_iters // steps == runner.iter // steps:
        return 0
    if type(batches) is BatchSampler:
        images, size = len(sampler), batches.batch_size
        left = images % size == 1 and not batches.drop_last
        return images if left or size == 1 else 0
    # Batches that are made in another way are looked at, without a copy of the images.
    shown = copy.deepcopy(batches, {id(loader.dataset): loader.dataset})
    with random_states_kept():
        sizes = [len(batch) for batch in islice(shown, steps)]
    return sum(sizes) if 1 in sizes else 0


def _is_written(cfg: Any) -> bool:
    return bool((cfg.get(KEY) or {}).get('batch_sampler'))


def _part_that_needs_more(model: nn.Module, batch: Any) -> str | None:
    """Return key and class of the part that cannot normalise one image, if any."""
    entered: list[nn.Module] = []

    def remember(module: nn.Module, _: Any) -> None:
        entered[:] = [module]

    # Other errors are those of a model that does not work, or that cannot be copied,
    # and training itself shows them.
    with random_states_kept(model.parameters()), suppress(Exception):
        tried: Any = copy.deepcopy(model).train()
        if getattr(tried, 'teacher_runtime', None) is not None:
            tried.teacher_runtime = None  # which would compile the teacher for this
        for loss in losses_of(tried):
            if loss.needs_dataset:
                loss.indices = torch.zeros(1, dtype=torch.int64)
        handle = register_module_forward_pre_hook(remember)
        try:
            data = tried.data_preprocessor(_one_image(batch), True)
            with eagerly(tried):  # because whatever it compiled would be lost
                tried._run_forward(data, mode='loss')
        except Exception as error:
            if SINGLE not in str(error):
                raise
            names = {module: name for name, module in tried.named_modules()}
            [part] = entered
            return f'model.{names[part]} ({type(part).__name__})'
        finally:
            handle.remove()
    return None


def _one_image(batch: Any) -> Any:
    """Return a batch of the first image of a batch, which is a dict in most cases."""
    if isinstance(batch, Mapping):
        return {name: _one_image(value) for name, value in batch.items()}
    return copy.deepcopy(batch[:1])
