"""A dataset decoded once into one tensor, of which batches are cut."""

import os
from numbers import Integral

import cv2
import mmcv
import numpy as np
import PIL
import torch
from mmcv.transforms import Compose, LoadImageFromFile
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, FUNCTIONS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset

from ..utils.caching import cache_folder
from ..utils.errors import describe
from .batch_ops import select
from .image_cache import cached_images
from .label_batch import LabelBatch
from .random_window import KEY, SWITCH_OFF, Draws, split
from .seeded_dataset import SeededDataset

# Other versions may decode or resize to other pixels.
VERSIONS = [
    f'{module.__name__} {module.__version__}' for module in (cv2, mmcv, np, PIL)
]


@FUNCTIONS.register_module()
def resident_collate(batch: dict) -> dict:
    """Return what :class:`ResidentDataset` has collated already."""
    return batch


@DATASETS.register_module()
class ResidentDataset(SeededDataset):
    """Wraps a dataset whose images, all decoded, fit into memory.

    What the pipeline does before its first random transform is done once, and its
    result kept, on disk too if images are read from files. ``RandomCrop`` and
    ``RandomFlip`` are done for whole batches. They draw from the same distribution as
    one by one, other numbers though, which depend on seed, epoch and index alone.

    A batch is a dict of ``inputs``, (N, C, H, W) uint8 with the strides of
    ``channels_last``, and ``data_samples``, a :class:`LabelBatch`. So a loader needs
    ``collate_fn=dict(type='resident_collate')``, and no workers; ``train_cfg`` and
    ``val_cfg`` have switches that see to all.

    Args:
        dataset (dict | BaseDataset): The dataset with its pipeline. One that is built
            from a config does not keep a copy of its own of images that it has in
            memory (CIFAR): it has no ``img`` any more.
        seed (int): The run's seed. Defaults to 0.
        device (str): Where images are kept and batches made. Defaults to ``'cpu'``.
        cache_dir (str, optional): Where decoded files are kept; None for no cache.
            Defaults to ``'auto'``: ``cakd_mm`` in ``$XDG_CACHE_HOME`` or
            ``~/.cache``.

    Raises:
        ValueError: a transform that batches cannot go through, images of several
            sizes or not of uint8, or one without a single class index.
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
        self._read_annotations()
        images = cached_images(
            cache_folder(cache_dir) if self._reads_files else None,
            [[_spell(transform) for transform in self._fixed], VERSIONS],
            [os.path.abspath(path) for path in self._paths or []],
            self._decode,
        )
        self.images: Tensor = images.to(device)
        if self.dataset is not dataset:  # nobody else's
            _forget_pixels(self.dataset)
        self._drawn: tuple[tuple[int, int], Draws] | None = None

    @property
    def _reads_files(self) -> bool:
        return any(type(step) is LoadImageFromFile for step in self._fixed)

    def _read_annotations(self) -> None:
        """Set the labels, (N,) int64, and the paths, if there are any."""
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
        self._labels = torch.tensor(labels)
        self._paths = None if None in paths else paths

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
        """The wrapped dataset's, of which the tensor was made."""
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

    def __getitem__(self, index: int) -> dict[str, Tensor | DataSample]:
        """Return one image, (C, H, W) uint8, with its ``DataSample``."""
        batch = self.__getitems__([range(len(self))[index]])
        return dict(
            inputs=batch['inputs'][0].contiguous(),
            data_samples=batch['data_samples'][0],
        )

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor | LabelBatch]:
        """Return the batch of these images; loaders ask for it as a whole."""
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
            count, *shape, _ = self.images.shape
            self._drawn = key, self._window.draw(*key, count, tuple(shape))
        return self._drawn[1]


def _forget_pixels(dataset: BaseDataset) -> None:
    """Let a dataset go of images (``img``) that it has in memory itself."""
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
    """Return all that a transform's pixels depend on."""
    options = sorted((name, repr(value)) for name, value in vars(transform).items())
    return f'{type(transform).__name__} {options}'


def _refuse(key: str, value, problem: str, remedy: str = 'Use another') -> None:
    raise ValueError(describe(key, value, problem, f'{remedy}, or {SWITCH_OFF}'))
