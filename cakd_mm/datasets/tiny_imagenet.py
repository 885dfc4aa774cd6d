"""Tiny-ImageNet, read from the archive's own layout."""

from collections.abc import Collection
from pathlib import Path

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from ..utils.errors import describe

KEY = 'dataset.data_root'
UNPACK = 'Give the unpacked tiny-imagenet-200 folder, or unpack the archive anew.'


@DATASETS.register_module()
class TinyImageNet(BaseDataset):
    """200 classes of ImageNet in small: 500 images each to train, 50 to validate.

    Reads the folder as it is unpacked, whatever the size of the images::

        wnids.txt  words.txt
        train/<wnid>/images/*.JPEG
        val/images/*.JPEG  val/val_annotations.txt

    A class's label is its place among the sorted wnids, its name what
    ``words.txt`` says; ``metainfo['classes']`` is in that order.

    Args:
        data_root (str): The folder with ``wnids.txt``.
        split (str): ``'train'`` or ``'val'``. Defaults to ``'train'``.
        **kwargs: As in mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``,
            ...).

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: unknown ``split``, a class without images or name, or images
            and annotations that do not belong together.
    """

    def __init__(self, data_root: str, split: str = 'train', **kwargs) -> None:
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
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return ``img_path`` and ``gt_label`` of every image; set the classes."""
        self._path('.')
        wnids = sorted(self._path('wnids.txt').read_text('utf-8').split())
        self._metainfo.setdefault('classes', self._names(wnids))
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        return self._train(labels) if self.split == 'train' else self._val(labels)

    def _path(self, name: str) -> Path:
        path = Path(self.data_root).expanduser() / name
        if not path.exists():
            problem = f'There is no {path}.'
            raise FileNotFoundError(describe(KEY, self.data_root, problem, UNPACK))
        return path

    def _refuse(self, found: Collection[str], problem: str) -> None:
        """Raise ``problem`` with examples if there is any name in ``found``."""
        if found:
            examples = ', '.join(sorted(found)[:3])
            problem = f'{problem} {examples} ({len(found)} in all).'
            raise ValueError(describe(KEY, self.data_root, problem, UNPACK))

    def _names(self, wnids: list[str]) -> tuple[str, ...]:
        lines = self._path('words.txt').read_text('utf-8').splitlines()
        words = dict(line.split('\t', 1) for line in lines if '\t' in line)
        self._refuse(set(wnids) - words.keys(), 'words.txt has no name for')
        return tuple(words[wnid] for wnid in wnids)

    def _train(self, labels: dict[str, int]) -> list[dict]:
        folder = self._path('train')
        images = {
            wnid: sorted((folder / wnid / 'images').glob('*.JPEG')) for wnid in labels
        }
        empty = [wnid for wnid, paths in images.items() if not paths]
        self._refuse(empty, f'{folder} has no images of')
        return [
            dict(img_path=str(path), gt_label=labels[wnid])
            for wnid, paths in images.items()
            for path in paths
        ]

    def _val(self, labels: dict[str, int]) -> list[dict]:
        name = 'val/val_annotations.txt'
        lines = self._path(name).read_text('utf-8').splitlines()
        # Name, wnid and a bounding box.
        rows = [(line + '\t').split('\t') for line in lines if line.strip()]
        wnids = {image: wnid for image, wnid, *_ in rows}
        strange = [image for image, wnid in wnids.items() if wnid not in labels]
        self._refuse(strange, f'{name} gives no class of wnids.txt to')
        paths = {path.name: path for path in self._path('val/images').glob('*.JPEG')}
        self._refuse(wnids.keys() - paths.keys(), 'val/images lacks')
        self._refuse(paths.keys() - wnids.keys(), f'{name} lacks')
        return [
            dict(img_path=str(paths[image]), gt_label=labels[wnid])
            for image, wnid in wnids.items()
        ]

    def extra_repr(self) -> list[str]:
        """Return what the print-out says beside the number of samples."""
        return [f'Root of data: \t{self.data_root}', f'Split: \t{self.split}']
