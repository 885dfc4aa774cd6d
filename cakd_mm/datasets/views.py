"""Batches that hold several views of each image.

mmpretrain's ``MultiView`` gives them. A loader's batch then has a list for its
``inputs``, with all images of one view in each entry.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..utils.errors import describe

KEY = 'train_dataloader.dataset.pipeline'


def views_in(batch: Any) -> int:
    """Return how many views of each image a loader's batch holds; 1 if it has none."""
    inputs = batch.get('inputs') if isinstance(batch, Mapping) else None
    if isinstance(inputs, (list, tuple)) and inputs and all(map(_is_view, inputs)):
        return len(inputs)
    return 1


def images_in(batch: Mapping) -> Sequence:
    """Return the images of a batch's first view, or those of a batch without views."""
    return batch['inputs'][0] if views_in(batch) > 1 else batch['inputs']


def joined(batch: Any) -> Any:
    """Return a batch in which each view is an image of its own.

    The images of the first view come first, then those of the next. Each view has its
    own copy of its image's annotations. A batch without views is returned as it is.

    Raises:
        ValueError: the views have several sizes or types.
    """
    count = views_in(batch)
    if count == 1:
        return batch
    views, samples = batch['inputs'], batch.get('data_samples')
    kinds = {(tuple(image.shape), image.dtype) for view in views for image in view}
    if len(kinds) > 1:
        problem = 'Views of one image are trained as one batch, of one size and type.'
        remedy = 'End the steps of each view of MultiView with the same size.'
        found = ' and '.join(sorted(f'{shape} {dtype}' for shape, dtype in kinds))
        raise ValueError(describe(KEY, found, problem, remedy))
    if all(isinstance(view, Tensor) for view in views):
        images: Any = torch.cat(views)
    else:
        images = [image for view in views for image in view]
    if isinstance(samples, (list, tuple)):
        samples = [_copied(sample) for _ in views for sample in samples]
    return dict(batch, inputs=images, data_samples=samples)


def _is_view(inputs: Any) -> bool:
    """Return whether an entry holds several images, and is none itself."""
    return isinstance(inputs, (list, tuple)) or (
        isinstance(inputs, Tensor) and inputs.dim() == 4
    )


def _copied(sample: Any) -> Any:
    """Return a sample of its own, because labels are mixed in place."""
    return sample.clone() if isinstance(sample, BaseDataElement) else sample
