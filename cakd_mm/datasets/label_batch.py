"""The labels of a batch without an object for every image."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from torch import Tensor


class LabelBatch(BaseDataElement):
    """The annotations of a batch, which also behaves like a list of ``DataSample``.

    The samples are made when the batch is first indexed or iterated, and only once,
    so that what is set on a sample stays. Code that takes the fields as a whole does
    not pay for them. Preprocessors move the batch as one element of mmengine's; a
    moved batch makes its samples again.

    Args:
        gt_label (Tensor): Class of each image, (N,) int64.
        sample_idx (np.ndarray): Place of each image in the dataset, (N,) int64,
            always on the host.
        img_path (list[str], optional): File of each image.
    """

    gt_label: Tensor
    sample_idx: np.ndarray
    img_path: list[str]

    def __len__(self) -> int:
        return len(self.gt_label)

    def __getitem__(self, index: int | slice) -> DataSample | list[DataSample]:
        return self.samples[index]

    def __iter__(self) -> Iterator[DataSample]:
        return iter(self.samples)

    @property
    def samples(self) -> list[DataSample]:
        """The ``DataSample`` of each image, made at the first use."""
        made = self.__dict__.get('_samples')
        if made is None:
            made = self.__dict__['_samples'] = self._make_samples()
        return made

    def _make_samples(self) -> list[DataSample]:
        metas = dict(sample_idx=self.sample_idx.tolist())
        if 'img_path' in self:
            metas['img_path'] = self.img_path
        samples = []
        for place, label in enumerate(self.gt_label.split(1)):
            sample = DataSample().set_gt_label(label)
            for name, values in metas.items():
                sample.set_field(values[place], name, field_type='metainfo')
            samples.append(sample)
        return samples

    def as_single(self) -> list[DataSample]:
        """Return one sample with the labels of all, (N,).

        mmpretrain's heads concatenate the labels of their samples, so they get the
        labels of the batch from this one.
        """
        return [DataSample().set_gt_label(self.gt_label)]


def sample_indices(samples: Any) -> np.ndarray | None:
    """Return the place of each image of a batch in its dataset, int64 (N,).

    It is None unless all of them have a ``sample_idx``. ``samples`` are a list of
    ``DataSample``, a :class:`LabelBatch` or None.
    """
    if isinstance(samples, LabelBatch):
        return samples.sample_idx
    indices = [sample.get('sample_idx') for sample in samples or ()]
    if not indices or not all(isinstance(i, (int, np.integer)) for i in indices):
        return None
    return np.array(indices)
