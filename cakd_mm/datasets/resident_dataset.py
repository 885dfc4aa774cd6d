"""A dataset that is decoded once into one tensor, from which batches are cut."""

import os
from numbers import Integral
from typing import Any, NoReturn

import cv2
import mmcv
import numpy as np
import PIL
import torch
from mmcv.transforms import Compose, LoadImageFromFile
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, FUNCTIONS
from torch import Tensor
from torch.utils.data import Dataset

from ..utils.errors import describe
from .batch_ops import select
from .caching import Watch, cache_folder, cached_images
from .label_batch import LabelBatch
from .random_window import KEY, SWITCH_OFF, Draws, split
from .seeded_dataset import SeededDataset

# Another version of these may decode or resize to other pixels.
VERSIONS = [
    f'{module.__name__} {module.__version__}' for module in (cv2, mmcv, np, PIL)
]


@FUNCTIONS.register_module()
def resident_collate(batch: dict) -> dict:
    """Return the batch as it is, because :class:`ResidentDataset` collated it."""
    return batch


@DATASETS.register_module()
class ResidentDataset(SeededDataset):
    """Wraps a dataset whose images, all decoded, fit into memory.

    What the pipeline does before its first random transform is done once. The result
    is also cached on disk if the images are read from files. ``RandomCrop`` and
    ``RandomFlip`` work on whole batches. Their distribution is the same as for single
    images, but the numbers are others, which depend on seed, epoch and index alone.

    A batch is a dict of ``inputs``, (N, C, H, W) uint8 with the strides of
    ``channels_last``, and ``data_samples``, a :class:`LabelBatch`. A loader therefore
    needs ``collate_fn=dict(type='resident_collate')`` and no workers; the loops set
    both if their ``resident`` is True.

    Args:
        dataset (dict | BaseDataset): The dataset with its pipeline. If it is built
            from a config here and has images in memory (CIFAR), it drops them: its
            items have no ``img`` any more.
        seed (int): The run's seed. Defaults to 0.
        device (str): Device of the images and batches. Defaults to ``'cpu'``.
        cache_dir (str, optional): Folder of the cache; None for no cache. Defaults
            to ``'auto'``: ``cakd_mm`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        ValueError: a transform cannot be applied to a batch, images have several
            sizes or are not uint8, or an image has no single class index.
        OSError: the cache was cut while it was in use.
    """

    def __init__(
        self,
        dataset: dict | Dataset,
        seed: int = 0,
        device: str = 'cpu',
        cache_dir: str | None = 'auto',
    ) -> None:
        super().__init__(dataset, seed)
        if not isinstance(self.dataset, BaseDataset):
            _refuse(
                'dataset.type',
                type(self.dataset).__name__,
                'Only one dataset with a pipeline of its own can be kept in memory.',
            )
        self.dataset.full_init()
        self._fixed, self._window = split(self.dataset.pipeline.transforms)
        self._labels, self._paths = self._read_annotations()
        reads_files = any(type(step) is LoadImageFromFile for step in self._fixed)
        kept = cached_images(
            cache_folder(cache_dir) if reads_files else None,
            [[_spell(transform) for transform in self._fixed], VERSIONS],
            [os.path.abspath(path) for path in self._paths or []],
            self._decode,
        )
        self.images: Tensor = kept.data.to(device)
        # What was copied to another device no longer depends on the file.
        self._watch = kept.watch if self.images is kept.data else Watch()
        if self.dataset is not dataset:  # it was built here, so nobody else reads it
            _drop_pixels(self.dataset)
        self._drawn: tuple[tuple[int, int], Draws] | None = None

    def _read_annotations(self) -> tuple[Tensor, list[str] | None]:
        """Return the labels, (N,) int64, and the paths, if all images have one."""
        labels, paths = [], []
        for index in range(len(self.dataset)):
            info = self.dataset.get_data_info(index)
            label = info.get('gt_label')
            if not isinstance(label, Integral) or 'gt_score' in info:
                _refuse(
                    'dataset',
                    type(self.dataset).__name__,
                    f'Image {index} has the label {label!r}, but batches hold one '
                    'class index for every image.',
                )
            labels.append(int(label))
            paths.append(info.get('img_path'))
        return torch.tensor(labels), None if None in paths else paths

    def _decode(self) -> np.ndarray:
        """Return every image after the fixed part of the pipeline, (N, H, W, C)."""
        count, pipeline = len(self.dataset), self.dataset.pipeline
        print_log(f'Decoding {count} images, to be kept in memory.', 'current')
        self.dataset.pipeline = Compose(self._fixed)
        try:
            first = self._image(0)
            images = np.empty((count, *first.shape), np.uint8)
            for index in range(count):
                image = self._image(index)
                if image.shape != first.shape:
                    _refuse(
                        KEY,
                        f'images of {first.shape[:2]} and {image.shape[:2]} pixels',
                        'Images kept in one tensor have one size '
                        f'(image {index} has another than the first).',
                        "Resize them before RandomCrop with dict(type='Resize', "
                        'scale=...)',
                    )
                images[index] = image
        finally:
            self.dataset.pipeline = pipeline
        return images

    def _image(self, index: int) -> np.ndarray:
        image = (self.dataset.prepare_data(index) or {}).get('img')
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            kind = getattr(image, 'dtype', type(image).__name__)
            _refuse(
                KEY, kind, f'Image {index} is kept as uint8, but the pipeline has this.'
            )
        return image[..., None] if image.ndim == 2 else image

    @property
    def pipeline(self):
        """The wrapped dataset's pipeline, with which the tensor was made."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, pipeline) -> None:
        _refuse(
            KEY,
            pipeline,
            'The images are already decoded: the pipeline of a running training '
            'cannot be switched.',
            'Remove SwitchRecipeHook',
        )

    def get_gt_labels(self) -> np.ndarray:
        """Return the class of every image, (N,) int64."""
        return self._labels.numpy()

    # It is told its epochs and knows no places.
    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        """Return one image, (C, H, W) uint8, with its ``DataSample``."""
        batch = self.__getitems__([range(len(self))[index]])
        image = batch['inputs'][0].contiguous()
        return dict(inputs=image, data_samples=batch['data_samples'][0])

    def __getitems__(  # type: ignore[override]
        self, indices: list[int]
    ) -> dict[str, Any]:
        """Return the batch of these images; a loader calls this once a batch."""
        self._watch.check()
        places = np.asarray(indices)
        if self._window.is_random:
            images = self._window.cut(self.images, places, self._draws()[places])
        else:
            images = select(self.images, places)
        samples = LabelBatch(gt_label=select(self._labels, places), sample_idx=places)
        if self._paths is not None:
            samples.img_path = [self._paths[index] for index in indices]
        return dict(inputs=images.permute(0, 3, 1, 2), data_samples=samples)

    def _draws(self) -> Draws:
        """Return the epoch's windows, drawn when it has changed."""
        key = (self.seed, int(self.epoch))
        if self._drawn is None or self._drawn[0] != key:
            count, height, width, _ = self.images.shape
            self._drawn = key, self._window.draw(*key, count, (height, width))
        return self._drawn[1]


def _drop_pixels(dataset: BaseDataset) -> None:
    """Remove the images (``img``) that a dataset holds in memory itself."""
    if 'img' not in dataset.get_data_info(0):
        return
    infos = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        del info['img']
        infos.append(info)
    dataset.data_list = infos
    if dataset.serialize_data:
        dataset.data_bytes, dataset.data_address = dataset._serialize_data()


def _spell(transform) -> str:
    """Return the class and all options of a transform, which decide on its pixels."""
    options = sorted((name, repr(value)) for name, value in vars(transform).items())
    return f'{type(transform).__name__} {options}'


def _refuse(key: str, value, problem: str, remedy: str = 'Use another') -> NoReturn:
    raise ValueError(describe(key, value, problem, f'{remedy}, or {SWITCH_OFF}'))
