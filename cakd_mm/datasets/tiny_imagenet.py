"""Tiny-ImageNet, read from the archive's own layout."""

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from ..utils.caching import cache_folder
from ..utils.errors import describe
from .scan_cache import cached, stamp
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

    A class's label is its place among the sorted wnids, its name what
    ``words.txt`` says; ``metainfo['classes']`` is in that order. What the scan
    finds is cached until a list or a folder of images changes.

    Args:
        data_root (str): The folder with ``wnids.txt``.
        split (str): ``'train'`` or ``'val'``. Defaults to ``'train'``.
        allow_unequal (bool): Take training classes of different sizes, which are
            otherwise the sign of a half-unpacked archive. Defaults to False.
        cache_dir (str, optional): Where the scan is cached; None for no cache.
            Defaults to ``'auto'``: ``cakd_mm`` in ``$XDG_CACHE_HOME`` or
            ``~/.cache``.
        **kwargs: As in mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``,
            ...).

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: unknown ``split``, a class without images or name, classes of
            different sizes, empty files, images and annotations that do not
            belong together; later, an image that cannot be read or is truncated.
    """

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        allow_unequal: bool = False,
        cache_dir: str | None = 'auto',
        **kwargs,
    ) -> None:
        if split not in ('train', 'val'):
            raise ValueError(
                describe(
                    'dataset.split',
                    split,
                    'Tiny-ImageNet has no such split with labels.',
                    "Write 'train' or 'val'.",
                )
            )
        self.split = split
        self.allow_unequal = allow_unequal
        self.cache_dir = cache_dir
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return ``img_path`` and ``gt_label`` of every image; set the classes."""
        root = self._path('.')
        key = [FORMAT, str(root.resolve()), self.split]
        found = cached(cache_folder(self.cache_dir), key, self._stamps, self._scan)
        wnids, labels = found['wnids'], found['labels']
        self._metainfo.setdefault('classes', tuple(found['classes']))
        if self.split == 'train':
            self._check_sizes(wnids, labels)
        folders = [str(root / self._images(wnid)) for wnid in wnids]
        return [
            dict(img_path=f'{folders[label]}/{name}', gt_label=label)
            for name, label in zip(found['names'], labels, strict=True)
        ]

    def prepare_data(self, idx: int):
        """Return an item through the pipeline.

        Raises:
            ValueError: the image cannot be read or is truncated, naming its path.
        """
        info = self.get_data_info(idx)
        path = info['img_path']
        try:
            data = self.pipeline(info)
        except Exception as error:
            self._refuse_broken(path, error)
            raise
        # Only what the pipeline has loaded. Other ends than a jpeg's are rare.
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

    def _refuse(
        self, found: Collection[str], problem: str, remedy: str = UNPACK
    ) -> None:
        """Raise ``problem`` with examples if there is any name in ``found``."""
        if found:
            examples = ', '.join(sorted(found)[:3])
            problem = f'{problem} {examples} ({len(found)} in all).'
            raise ValueError(describe(KEY, self.data_root, problem, remedy))

    def _check_sizes(self, wnids: list[str], labels: list[int]) -> None:
        sizes = Counter(labels)
        most = max(sizes.values())
        fewer = [wnids[label] for label, size in sizes.items() if size < most]
        if not self.allow_unequal:
            problem = f'Other classes have {most} training images, but fewer have'
            self._refuse(fewer, problem, f'{UNPACK} {ON_PURPOSE}')

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
        names, found = zip(*pairs, strict=True)
        return dict(wnids=wnids, classes=classes, names=names, labels=found)

    def _wnids(self) -> list[str]:
        return sorted(self._path('wnids.txt').read_text('utf-8').split())

    def _names(self, wnids: list[str]) -> list[str]:
        lines = self._path('words.txt').read_text('utf-8').splitlines()
        words = dict(line.split('\t', 1) for line in lines if '\t' in line)
        self._refuse(set(wnids) - words.keys(), 'words.txt has no name for')
        return [words[wnid] for wnid in wnids]

    def _list(self, folder: Path) -> list[str]:
        """Return the sorted names of a folder's images, of which none is empty."""
        with os.scandir(folder) as entries:
            images = [entry for entry in entries if entry.name.endswith('.JPEG')]
        empty = [entry.path for entry in images if not entry.stat().st_size]
        self._refuse(empty, 'Nothing is in')
        return sorted(entry.name for entry in images)

    def _train(self, labels: dict[str, int]) -> list[tuple[str, int]]:
        root = self._path('train').parent
        folders = {wnid: root / self._images(wnid) for wnid in labels}
        images = {
            wnid: self._list(folder) if folder.is_dir() else []
            for wnid, folder in folders.items()
        }
        none = [wnid for wnid, names in images.items() if not names]
        self._refuse(none, f'{root / "train"} has no images of')
        return [(name, labels[wnid]) for wnid in labels for name in images[wnid]]

    def _val(self, labels: dict[str, int]) -> list[tuple[str, int]]:
        lines = self._path(ANNOTATIONS).read_text('utf-8').splitlines()
        # Name, wnid and a bounding box.
        rows = [(line + '\t').split('\t') for line in lines if line.strip()]
        wnids = {image: wnid for image, wnid, *_ in rows}
        strange = [image for image, wnid in wnids.items() if wnid not in labels]
        self._refuse(strange, f'{ANNOTATIONS} gives no class of wnids.txt to')
        names = set(self._list(self._path('val/images')))
        self._refuse(wnids.keys() - names, 'val/images lacks')
        self._refuse(names - wnids.keys(), f'{ANNOTATIONS} lacks')
        if not wnids:
            problem = f'{ANNOTATIONS} and val/images are empty.'
            raise ValueError(describe(KEY, self.data_root, problem, UNPACK))
        return [(image, labels[wnid]) for image, wnid in wnids.items()]

    def extra_repr(self) -> list[str]:
        """Return what the print-out says beside the number of samples."""
        return [f'Root of data: \t{self.data_root}', f'Split: \t{self.split}']
