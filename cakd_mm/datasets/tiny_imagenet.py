"""Tiny-ImageNet, read from the archive's own layout."""

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from ..utils.errors import describe
from .caching import cache_folder, cached_scan, stamp
from .whole_image import ends_well, why_unreadable

FORMAT = 1  # of the cached scan: raise it when `_scan` changes
KEY = 'dataset.data_root'
ANNOTATIONS = 'val/val_annotations.txt'
UNPACK = 'Give the unpacked tiny-imagenet-200 folder, or unpack the archive anew.'
ON_PURPOSE = 'If they were cut on purpose, write allow_unequal=True.'


@DATASETS.register_module()
class TinyImageNet(BaseDataset):
    """200 classes of ImageNet in small: 500 images each to train, 50 to validate.

    Reads the folder as it is unpacked, whatever the size of the images::

        wnids.txt  words.txt
        train/<wnid>/images/*.JPEG
        val/images/*.JPEG  val/val_annotations.txt

    The label of a class is its place among the sorted wnids, and its name is the one
    in ``words.txt``. The list of images is cached until a folder of images or one of
    the text files changes.

    Args:
        data_root (str): The folder with ``wnids.txt``.
        split (str): ``'train'`` or ``'val'``. Defaults to ``'train'``.
        allow_unequal (bool): Take training classes of different sizes, which are
            otherwise the sign of a half-unpacked archive. Defaults to False.
        cache_dir (str, optional): Folder of the cache; None for no cache. Defaults
            to ``'auto'``: ``cakd_mm`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
        **kwargs: As in mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``,
            ...).

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: unknown ``split``, a class without images or name, classes of
            different sizes, empty files, or images and annotations that do not
            belong together; later, an image that cannot be read or is truncated.
    """

    def __init__(
        self,
        data_root: str,
        split: Literal['train', 'val'] = 'train',
        allow_unequal: bool = False,
        cache_dir: str | None = 'auto',
        **kwargs,
    ) -> None:
        if split not in ('train', 'val'):
            problem = 'Tiny-ImageNet has no such split with labels.'
            remedy = "Write 'train' or 'val'."
            raise ValueError(describe('dataset.split', split, problem, remedy))
        self.split = split
        self.allow_unequal = allow_unequal
        self.cache_dir = cache_dir
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return ``img_path`` and ``gt_label`` of every image; set the classes."""
        root = self._path('.')
        key = [FORMAT, str(root.resolve()), self.split]
        folder = cache_folder(self.cache_dir)
        scan = cached_scan(folder, key, self._stamps, self._scan)
        wnids, labels = scan['wnids'], scan['labels']
        self._metainfo.setdefault('classes', tuple(scan['classes']))
        if self.split == 'train':
            self._check_sizes(wnids, labels)
        folders = [str(root / self._images(wnid)) for wnid in wnids]
        return [
            dict(img_path=f'{folders[label]}/{name}', gt_label=label)
            for name, label in zip(scan['names'], labels, strict=True)
        ]

    def prepare_data(self, idx: int):
        """Return an item after the pipeline.

        Raises:
            ValueError: the image of the named path cannot be read or is truncated.
        """
        info = self.get_data_info(idx)
        path = info['img_path']
        try:
            data = self.pipeline(info)
        except Exception as error:
            self._refuse_broken(path, error)
            raise
        # An image that the pipeline did not load is not checked. One with another end
        # than a jpeg's is decoded once more, which is rare.
        if 'img' in info and not ends_well(path):
            self._refuse_broken(path)
        return data

    def _refuse_broken(self, path: str, cause: Exception | None = None) -> None:
        if reason := why_unreadable(path):
            problem = f'{path} is no whole image: {reason}.'
            raise ValueError(describe(KEY, self.data_root, problem, UNPACK)) from cause

    def _path(self, name: str) -> Path:
        path = Path(self.data_root).expanduser() / name
        if not path.exists():
            problem = f'There is no {path}.'
            raise FileNotFoundError(describe(KEY, self.data_root, problem, UNPACK))
        return path

    def _images(self, wnid: str) -> str:
        return f'train/{wnid}/images' if self.split == 'train' else 'val/images'

    def _refuse_any(
        self, names: Collection[str], problem: str, remedy: str = UNPACK
    ) -> None:
        """Raise ``problem`` with the first of ``names``, if there are any."""
        if names:
            examples = ', '.join(sorted(names)[:3])
            problem = f'{problem} {examples} ({len(names)} in all).'
            raise ValueError(describe(KEY, self.data_root, problem, remedy))

    def _check_sizes(self, wnids: list[str], labels: list[int]) -> None:
        sizes = Counter(labels)
        most = max(sizes.values())
        fewer = [wnids[label] for label, size in sizes.items() if size < most]
        if not self.allow_unequal:
            problem = f'Other classes have {most} training images, but fewer have'
            self._refuse_any(fewer, problem, f'{UNPACK} {ON_PURPOSE}')

    def _stamps(self) -> list[list]:
        names = ['wnids.txt', 'words.txt']
        if self.split == 'train':
            names += map(self._images, self._wnids())
        else:
            names += ['val/images', ANNOTATIONS]
        return stamp(self._path('.'), names)

    def _scan(self) -> dict[str, list]:
        """Return wnids, class names, and name and label of every image."""
        wnids = self._wnids()
        if not wnids:
            problem = 'wnids.txt names no class.'
            raise ValueError(describe(KEY, self.data_root, problem, UNPACK))
        classes = self._names(wnids)
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        pairs = self._train(labels) if self.split == 'train' else self._val(labels)
        return dict(
            wnids=wnids,
            classes=classes,
            names=[name for name, _ in pairs],
            labels=[label for _, label in pairs],
        )

    def _wnids(self) -> list[str]:
        return sorted(self._path('wnids.txt').read_text('utf-8').split())

    def _names(self, wnids: list[str]) -> list[str]:
        lines = self._path('words.txt').read_text('utf-8').splitlines()
        words = dict(line.split('\t', 1) for line in lines if '\t' in line)
        self._refuse_any(set(wnids) - words.keys(), 'words.txt has no name for')
        return [words[wnid] for wnid in wnids]

    def _list(self, folder: Path) -> list[str]:
        """Return the sorted names of a folder's images; none may be empty."""
        with os.scandir(folder) as entries:
            images = [entry for entry in entries if entry.name.endswith('.JPEG')]
        empty = [entry.path for entry in images if not entry.stat().st_size]
        self._refuse_any(empty, 'Nothing is in')
        return sorted(entry.name for entry in images)

    def _train(self, labels: dict[str, int]) -> list[tuple[str, int]]:
        root = self._path('train').parent
        folders = {wnid: root / self._images(wnid) for wnid in labels}
        images = {
            wnid: self._list(folder) if folder.is_dir() else []
            for wnid, folder in folders.items()
        }
        none = [wnid for wnid, names in images.items() if not names]
        self._refuse_any(none, f'{root / "train"} has no images of')
        return [(name, labels[wnid]) for wnid in labels for name in images[wnid]]

    def _val(self, labels: dict[str, int]) -> list[tuple[str, int]]:
        lines = self._path(ANNOTATIONS).read_text('utf-8').splitlines()
        # A row holds name, wnid and a bounding box. The tab that is added gives a line
        # with nothing but a name an empty wnid.
        rows = [(line + '\t').split('\t') for line in lines if line.strip()]
        wnids = {image: wnid for image, wnid, *_ in rows}
        strange = [image for image, wnid in wnids.items() if wnid not in labels]
        self._refuse_any(strange, f'{ANNOTATIONS} gives no class of wnids.txt to')
        names = set(self._list(self._path('val/images')))
        self._refuse_any(wnids.keys() - names, 'val/images lacks')
        self._refuse_any(names - wnids.keys(), f'{ANNOTATIONS} lacks')
        if not wnids:
            problem = f'{ANNOTATIONS} and val/images are empty.'
            raise ValueError(describe(KEY, self.data_root, problem, UNPACK))
        return [(image, labels[wnid]) for image, wnid in wnids.items()]

    def extra_repr(self) -> list[str]:
        """Return what a printed dataset shows beside the number of samples."""
        return [f'Root of data: \t{self.data_root}', f'Split: \t{self.split}']
