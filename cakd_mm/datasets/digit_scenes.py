"""Scenes of real digit scans, to detect or to segment, that need no download."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..models.checks import is_count
from ..utils.errors import describe
from .digits import part_of, scans
from .scene import compose, run_lengths

DIGITS = tuple('0123456789')


# In mmengine's registry, which those of mmdet and mmseg look into after their own.
@DATASETS.register_module()
class DigitScenes(BaseDataset):
    """Made canvases with real scans of handwritten digits, with boxes and masks.

    The digits are the scans of :class:`Digits`, enlarged; those of the two splits are
    different ones. Canvas, grey levels, noise and places are drawn; no camera has seen
    such a scene. A scene depends on ``seed``, its number and the other settings, but
    not on the order in which scenes are read.

    An item has what the pipelines of mmdet and mmseg read: ``img``, (size, size, 3)
    uint8 of equal channels; ``instances``, a list with ``bbox`` (left, top, right,
    bottom; pixels), ``bbox_label`` 0 to 9 and ``mask`` (run lengths as COCO has them);
    and ``gt_seg_map``, (size, size) uint8, where 0 is the background and d + 1 the
    digit d. A pipeline starts with ``LoadImageFromNDArray``. mmseg's needs no
    ``LoadAnnotations``. Neither mmdet nor mmseg is needed to build the set.

    Args:
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        scenes (int): How many. Defaults to 1000.
        size (int): Height and width of a scene, in pixels. Defaults to 64.
        objects (Sequence[int]): Least and largest number of digits. A scene has fewer
            where no place is left. Defaults to (2, 4).
        sides (Sequence[int]): Least and largest side of an enlarged scan, in pixels.
            Defaults to (16, 32).
        scans (Sequence[int], optional): The first scan of the split that is used, and
            the first that is not, so that settings can be chosen on scans that are
            held out. Defaults to None, all of them.
        seed (int): Of all that is drawn. Defaults to 0.
        **kwargs: As in mmengine's ``BaseDataset`` (``pipeline``, ``indices``, ...).

    Raises:
        ValueError: unknown ``split``, or a setting that is out of its range.
    """

    METAINFO: dict = {'classes': DIGITS}

    def __init__(
        self,
        split: Literal['train', 'test'] = 'train',
        scenes: int = 1000,
        size: int = 64,
        objects: Sequence[int] = (2, 4),
        sides: Sequence[int] = (16, 32),
        scans: Sequence[int] | None = None,
        seed: int = 0,
        **kwargs,
    ) -> None:
        part_of(split)
        self.split, self.seed = split, _whole('seed', seed, 0)
        self.scenes, self.size = _whole('scenes', scenes), _whole('size', size, 8)
        self.objects = _pair('objects', objects, 1, None)
        self.sides = _pair('sides', sides, 8, size)
        self.scans = scans
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return all scenes as items without a pipeline."""
        images, labels = scans(self.split)
        first, end = 0, len(images)
        if self.scans is not None:
            # Equal numbers would leave no scan.
            first, end = _pair('scans', self.scans, 0, end, apart=1)
        # Scenes of other scans shall differ in all that is drawn, not in scans alone.
        key = (self.seed, part_of(self.split).start or 0, first)
        return [
            self._item(images[first:end], labels[first:end], (*key, number))
            for number in range(self.scenes)
        ]

    def _item(self, images: np.ndarray, labels: np.ndarray, key: tuple) -> dict:
        """Return the scene whose random numbers start from the integers of a key."""
        rng = np.random.default_rng(key)
        scene = compose(images, labels, self.size, self.objects, self.sides, rng)
        instances = [
            dict(
                bbox=scene.box(index),
                bbox_label=int(label),
                ignore_flag=0,
                mask=run_lengths(scene.owner == index),
            )
            for index, label in enumerate(scene.labels)
        ]
        return dict(
            img=np.repeat(scene.image[..., None], 3, axis=-1),
            img_id=key[-1],
            height=self.size,
            width=self.size,
            instances=instances,
            gt_seg_map=scene.classes(),
            seg_fields=['gt_seg_map'],
        )


@DATASETS.register_module()
class DigitScenesPixels(DigitScenes):
    """:class:`DigitScenes` whose classes are those of ``gt_seg_map``, for mmseg.

    They are the background and ten digits. Arguments and errors are the same.
    """

    METAINFO: dict = {
        'classes': ('background', *DIGITS),
        'palette': [
            *([0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25]),
            *([0, 130, 200], [245, 130, 48], [145, 30, 180], [70, 240, 240]),
            *([240, 50, 230], [170, 110, 40], [250, 190, 212]),
        ],
    }


def _whole(key: str, value: int, least: int = 1) -> int:
    if not is_count(value, least):
        problem = 'It is no whole number in its range.'
        remedy = f'Write one from {least} on.'
        raise ValueError(describe(f'dataset.{key}', value, problem, remedy))
    return value


def _pair(
    key: str, value: Sequence[int], least: int, most: int | None, apart: int = 0
) -> tuple[int, int]:
    """Return two numbers of a setting that are in their range and in order."""
    end = f' to {most}' if most is not None else ' on'
    if (
        len(value) != 2
        or not all(is_count(x, least) for x in value)
        or not value[0] + apart <= value[1] <= (most or value[1])
    ):
        problem = 'It does not have two whole numbers in order and in their range.'
        remedy = f'Write two, the smaller first, from {least}{end}.'
        raise ValueError(describe(f'dataset.{key}', value, problem, remedy))
    return value[0], value[1]
