"""A folder of images, decoded once and kept in memory."""

import cv2
import mmcv
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from ..utils.errors import describe
from .whole_image import ends_well, why_unreadable


@DATASETS.register_module()
class DecodedImages(CustomDataset):
    """mmpretrain's ``CustomDataset`` of a small set, decoded when it is built.

    Items hold ``img``, (H, W, 3) uint8 in BGR, so the pipeline starts without
    ``LoadImageFromFile``. A part of each class can be taken, in the order of the
    file names: the first thousand for training, say, and the next two hundred
    to choose hyper-parameters with.

    Args:
        size (int, optional): Height and width to resize to, by averaging areas.
            Defaults to None (as they are).
        per_class (tuple[int, int], optional): First and last + 1 image of each
            class to take. Defaults to None (all).
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
        classes: dict[int, list[dict]] = {}
        for item in super().load_data_list():
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
            raise ValueError(
                describe(
                    'dataset.per_class',
                    self.per_class,
                    f'Class {label} has {len(items)} images in {self.img_prefix}.',
                    'Write (first, last + 1) within that, or leave it out.',
                )
            )
        return items[start:stop]

    def _read(self, path: str):
        try:
            image = mmcv.imread(path)
        except cv2.error:  # an empty file
            image = None
        if image is None or not (ends_well(path) or why_unreadable(path) is None):
            raise ValueError(
                describe(
                    'dataset.data_root',
                    path,
                    'It is no readable image, or no whole one.',
                    'Unpack anew.',
                )
            )
        size = self.size
        return (
            image
            if size is None
            else mmcv.imresize(image, (size, size), interpolation='area')
        )
