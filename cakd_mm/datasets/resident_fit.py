"""Tells whether a data set could be kept in memory, before its images are decoded."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmcv.transforms import Compose
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..utils.arguments import class_of
from ..utils.random_states import random_states_kept
from .random_window import reason_of, split

# Whose methods give an image the same pixels every time, apart from the pipeline.
TRUSTED = ('mmengine.', 'mmpretrain.', 'cakd_mm.')
COLLATE = ('default_collate', 'pseudo_collate')


def why_not_resident(loader: Any, key: str) -> str | None:
    """Return what keeps a loader's data from being kept in memory, if it is known.

    No data are read for it, so that what only shows in them (images of several sizes,
    labels that are no class index) is not known yet.

    Args:
        loader: Config of the loader.
        key (str): Its key, ``'train_dataloader'``, say.
    """
    if not isinstance(loader, Mapping) or not isinstance(loader.get('dataset'), dict):
        return f'{key} is built already.'
    collate = (loader.get('collate_fn') or {}).get('type', COLLATE[0])
    if str(collate).rpartition('.')[-1] not in COLLATE:
        return f'{key}.collate_fn would not be called.'
    dataset = loader['dataset']
    kind = class_of(dataset, DATASETS, f'{key}.dataset')
    if not (isinstance(kind, type) and issubclass(kind, BaseDataset)):
        return f'{kind.__name__} is no single data set with a pipeline of its own.'
    for name in ('prepare_data', '__getitem__'):
        if not getattr(kind, name).__module__.startswith(TRUSTED):
            return f'{kind.__name__} has a {name} of its own, which may be random.'
    try:
        split(Compose(dataset.get('pipeline', [])).transforms)
    except ValueError as refusal:
        return reason_of(refusal)
    return None


def resident_bytes(dataset: Mapping[str, Any]) -> int:
    """Return what all images would take, if they are as large as the first one.

    It is 0 if the first one is no uint8 image, which :class:`ResidentDataset` refuses.

    Args:
        dataset (Mapping): Its config, of which :func:`why_not_resident` knows nothing
            bad.
    """
    with random_states_kept():
        built = DATASETS.build(dataset)
        built.full_init()
        fixed, _ = split(built.pipeline.transforms)
        built.pipeline = Compose(fixed)
        image = (built.prepare_data(0) or {}).get('img') if len(built) else None
    return len(built) * image.nbytes if isinstance(image, np.ndarray) else 0
