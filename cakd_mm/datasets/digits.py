"""Real scans of handwritten digits that need no download."""

from functools import cache
from typing import Any, Literal

import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from ..utils.errors import describe

TRAIN_SIZE = 1000


@cache
def _read() -> Any:
    """Read the file once, and import what reads it only where it is read."""
    from sklearn.datasets import load_digits

    return load_digits()


def part_of(split: str) -> slice:
    """Return which scans of the file a split has.

    Raises:
        ValueError: unknown ``split``.
    """
    if split not in ('train', 'test'):
        problem, remedy = 'Digits has no such split.', "Write 'train' or 'test'."
        raise ValueError(describe('dataset.split', split, problem, remedy))
    return slice(TRAIN_SIZE) if split == 'train' else slice(TRAIN_SIZE, None)


def scans(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the scans of a split, (N, 8, 8) uint8, and their digits, (N,)."""
    digits, part = _read(), part_of(split)
    grey = (digits.images[part] * (255 / 16)).round().astype(np.uint8)
    return grey, digits.target[part]


@DATASETS.register_module()
class Digits(BaseDataset):
    """The 1,797 scans of 8x8 pixels that scikit-learn bundles.

    They are the UCI test set of optical digits (Alpaydin and Kaynak 1998), with
    sixteen grey levels, ten classes and 13 writers. In the file's order, which keeps
    some writers apart, the first 1,000 scans are for training and the last 797 for
    testing. Images are (8, 8, 3) uint8 arrays that repeat the grey level.

    Args:
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        **kwargs: As in mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``,
            ...).

    Raises:
        ValueError: unknown ``split``.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, split: Literal['train', 'test'] = 'train', **kwargs) -> None:
        part_of(split)
        self.split = split
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return ``img`` (8, 8, 3) uint8 and ``gt_label`` of every scan."""
        grey, labels = scans(self.split)
        images = np.repeat(grey[..., None], 3, axis=-1)
        return [
            dict(img=image, gt_label=int(label))
            for image, label in zip(images, labels, strict=True)
        ]
