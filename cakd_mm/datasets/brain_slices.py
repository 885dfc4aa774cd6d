"""Slices of one average brain, to segment, that need no download."""

from functools import cache
from typing import Literal

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..utils.errors import describe

# Axial slices of the template, 1 mm apart, whose brain is large enough.
FIRST, LAST = 8, 148
# Neighbouring slices stay together: blocks of this many, of which each third tests.
BLOCK = 10
# Slices of training blocks so near to a test block are in neither split.
GAP = 2
# The window around the brain, in pixels of 1 mm, which becomes 96 x 80 of 2 mm.
ROWS, COLUMNS = slice(22, 214), slice(18, 178)
# The template is scaled to 0 to 1; nilearn takes what is above this for brain.
LEAST_BRAIN = 0.2


@cache
def _volumes() -> list[np.ndarray]:
    """Read T1, grey and white matter, each (x, y, z) in 0 to 1 at 1 mm, once."""
    try:
        from nilearn import datasets
    except ImportError as error:
        problem = 'Its slices are those of nilearn, which is not installed.'
        remedy = "Type pip install 'cakd_mm[brain]'."
        raise ModuleNotFoundError(
            describe('dataset.type', 'BrainSlices', problem, remedy)
        ) from error
    kinds = ('template', 'gm_template', 'wm_template')
    read = [getattr(datasets, f'load_mni152_{kind}') for kind in kinds]
    return [np.asarray(load(resolution=1).dataobj, np.float32) for load in read]


def slices_of(split: str) -> list[int]:
    """Return the heights in the template of a split's slices, in mm."""
    heights = range(FIRST, LAST)
    tests = {z for z in heights if (z - FIRST) // BLOCK % 3 == 2}
    if split == 'test':
        return sorted(tests)
    near = {z + d for z in tests for d in range(-GAP, GAP + 1)}
    return [z for z in heights if z not in near]


# In mmengine's registry, into which that of mmseg looks after its own.
@DATASETS.register_module()
class BrainSlices(BaseDataset):
    """Axial slices of the MNI152 brain that nilearn bundles, with their tissues.

    It is **one** brain, the average of 152 people, so a score says nothing about other
    people's brains. Slices are 1 mm apart and nearly equal to their neighbours.
    Therefore each third block of 10 slices is for testing, the others are for training,
    and 2 slices beside a test block are in neither split.

    An item has what mmseg's pipelines read: ``img``, (96, 80, 3) uint8, the T1-weighted
    template in pixels of 2 mm with equal channels and the front of the head above; and
    ``gt_seg_map``, (96, 80) uint8: background, grey matter, white matter, and other
    parts of the brain, which are mostly fluid. The label is the likeliest of nilearn's
    maps of tissue. A pipeline starts with ``LoadImageFromNDArray`` and needs no
    ``LoadAnnotations``. The extra ``brain`` installs nilearn.

    Args:
        split (str): ``'train'``, 84 slices, or ``'test'``, 40. Defaults to
            ``'train'``.
        **kwargs: As in mmengine's ``BaseDataset`` (``pipeline``, ``indices``, ...).

    Raises:
        ValueError: unknown ``split``.
        ModuleNotFoundError: nilearn is not installed.
    """

    METAINFO: dict = {
        'classes': ('background', 'grey matter', 'white matter', 'other brain'),
        'palette': [[0, 0, 0], [230, 25, 75], [255, 225, 25], [0, 130, 200]],
    }

    def __init__(self, split: Literal['train', 'test'] = 'train', **kwargs) -> None:
        if split not in ('train', 'test'):
            problem, remedy = 'There is no such split.', "Write 'train' or 'test'."
            raise ValueError(describe('dataset.split', split, problem, remedy))
        self.split = split
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return all slices as items without a pipeline."""
        volumes = _volumes()
        return [self._item(volumes, height) for height in slices_of(self.split)]

    def _item(self, volumes: list[np.ndarray], height: int) -> dict:
        t1, grey, white = (_window(volume[:, :, height]) for volume in volumes)
        brain = t1 > LEAST_BRAIN
        # What is no grey or white matter is other brain or, without signal, background.
        other = np.where(brain, 1 - grey - white, 0)
        background = np.where(brain, 0, 1 - grey - white)
        tissues = np.stack([background, grey, white, other])
        image = (t1 * 255).round().clip(0, 255).astype(np.uint8)
        return dict(
            img=np.repeat(image[..., None], 3, axis=-1),
            img_id=height,
            gt_seg_map=tissues.argmax(0).astype(np.uint8),
            seg_fields=['gt_seg_map'],
        )


def _window(plane: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 pixels of a plane (x, y) as (96, 80), front above."""
    rows = plane.T[ROWS, COLUMNS][::-1]
    return rows.reshape(96, 2, 80, 2).mean((1, 3))
