"""A folder of images that is decoded once and held in memory."""

import cv2
import mmcv
import numpy as np
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from ..utils.errors import describe
from .whole_image import ends_well, why_unreadable


@DATASETS.register_module()
class DecodedImages(CustomDataset):
    """mmpretrain's ``CustomDataset`` for a small set, decoded when it is built.

    Items hold ``img``, (H, W, 3) uint8 in BGR, so that the pipeline needs no
    ``LoadImageFromFile``.

    Args:
        size (int, optional): Height and width to resize to, by averaging areas.
            Defaults to None, which keeps the images' size.
        per_class (tuple[int, int], optional): First and last + 1 image of each
            class to take, in the order of the file names: ``(0, 1000)`` to train,
            say, and ``(1000, 1200)`` to choose hyper-parameters. Defaults to None
            (all).
        **kwargs: As in ``CustomDataset`` (``data_root``, ``data_prefix``, ...).

    Raises:
        ValueError: a class has too few images, or an image cannot be read.
    """

    def __init__(
        self,
        size: int | None = None,
        per_class: tuple[int, int] | None = None,
        **kwargs,
    ) -> None:
        self.size = size
        self.per_class = per_class
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Return ``img``, ``img_path`` and ``gt_label`` of every image taken."""
        items = super().load_data_list()
        # A class without images has to be seen too, so that `per_class` refuses it.
        known = range(len(self._metainfo.get('classes', ())))
        classes: dict[int, list[dict]] = {label: [] for label in known}
        for item in items:
            classes.setdefault(item['gt_label'], []).append(item)
        taken = []
        for label, items in classes.items():
            items.sort(key=lambda item: item['img_path'])
            taken += self._part(items, label)
        for item in taken:
            item['img'] = self._read(item['img_path'])
        return taken

    def _part(self, items: list[dict], label: int) -> list[dict]:
        if self.per_class is None:
            return items
        start, stop = self.per_class
        if not 0 <= start < stop <= len(items):
            problem = f'Class {label} has {len(items)} images in {self.img_prefix}.'
            remedy = 'Write (first, last + 1) within that, or leave it out.'
            key = 'dataset.per_class'
            raise ValueError(describe(key, self.per_class, problem, remedy))
        return items[start:stop]

    def _read(self, path: str) -> np.ndarray:
        try:
            image = mmcv.imread(path)
        except cv2.error:  # an empty file
            image = None
        if image is None or not (ends_well(path) or why_unreadable(path) is None):
            problem = 'It is no readable image, or no whole one.'
            raise ValueError(
                describe('dataset.data_root', path, problem, 'Unpack anew.')
            )
        if self.size is None:
            return image
        return mmcv.imresize(image, (self.size, self.size), interpolation='area')
