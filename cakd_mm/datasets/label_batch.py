"""The labels of a batch without an object for every image."""

from collections.abc import Iterator

from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample


class LabelBatch(BaseDataElement):
    """A batch's annotations; a list of ``DataSample`` for those who ask for one.

    Indexed or iterated, it makes the samples, once, so that what is set on them
    stays. Whoever takes the fields as a whole pays for none. As an element of
    mmengine's it is moved by preprocessors as one; a moved one makes its samples
    anew.

    Args:
        gt_label (Tensor): Class of every image, (N,) int64.
        sample_idx (np.ndarray): Its place in the dataset, (N,) int64, always on the
            host.
        img_path (list[str], optional): Its file, N of them.
    """

    def __len__(self) -> int:
        return len(self.gt_label)

    def __getitem__(self, index: int | slice) -> DataSample | list[DataSample]:
        return self.samples[index]

    def __iter__(self) -> Iterator[DataSample]:
        return iter(self.samples)

    @property
    def samples(self) -> list[DataSample]:
        """The ``DataSample`` of each image, made when first asked for."""
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

        mmpretrain's heads concatenate the labels of the samples they are given, so
        that this gives them the batch's.
        """
        return [DataSample().set_gt_label(self.gt_label)]
