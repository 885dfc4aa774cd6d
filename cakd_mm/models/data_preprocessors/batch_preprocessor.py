"""Preprocessing of a whole batch, where the loader gives one."""

from typing import Any

from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from torch import Tensor

from ...datasets.batch_ops import normalized, row_of
from ...datasets.label_batch import LabelBatch
from ...utils.errors import describe


@MODELS.register_module()
class BatchPreprocessor(ClsDataPreprocessor):
    """mmpretrain's ``ClsDataPreprocessor``, without a loop over the images.

    A batch of resident data (uint8 images and a :class:`LabelBatch`) is normalised as a
    whole, with the same result bit for bit. Anything else, and settings that need the
    images one by one (mixup, one-hot labels, padding), go the ordinary way.

    Args:
        channels_last (bool): Leave such a batch in the memory format in which it is
            made. Nets then round in another way. Defaults to False.
        **kwargs: As in mmpretrain (``mean``, ``std``, ``to_rgb``, ...).
    """

    def __init__(self, channels_last: bool = False, **kwargs: Any) -> None:
        for name in ('mean', 'std'):
            if kwargs.get(name) is not None and not len(kwargs[name]):
                problem = 'It is empty, and has one number for each channel.'
                remedy = 'Write [0.0, 0.0, 0.0], say, or remove mean and std.'
                key = f'data_preprocessor.{name}'
                raise ValueError(describe(key, kwargs[name], problem, remedy))
        given = [kwargs.get(name) is not None for name in ('mean', 'std')]
        if given == [False, True]:  # mmpretrain normalises then by neither
            problem = 'It is not used without mean.'
            remedy = 'Write mean as well, [0.0, 0.0, 0.0] for none, or remove std.'
            key = 'data_preprocessor.std'
            raise ValueError(describe(key, kwargs['std'], problem, remedy))
        super().__init__(**kwargs)
        self.channels_last = channels_last
        self._rows: tuple[tuple, tuple[Tensor, Tensor]] | None = None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``inputs`` (N, C, H, W) float32 and ``data_samples``."""
        samples = data.get('data_samples') if isinstance(data, dict) else None
        one_by_one = self.to_onehot or self.batch_augments or self.pad_size_divisor > 1
        if not isinstance(samples, LabelBatch):
            return super().forward(data, training)
        if one_by_one:  # a list, because what is set on a sample has to stay
            return super().forward(dict(data, data_samples=list(samples)), training)
        images = data['inputs'].to(self.device, non_blocking=self._non_blocking)
        if self._enable_normalize:
            images = normalized(images, *self._statistics(images), self.to_rgb)
        else:
            images = (images.flip(1) if self.to_rgb else images).float()
        if not self.channels_last:
            images = images.contiguous()
        if samples.gt_label.device != images.device:
            samples = samples.to(images.device)
        return dict(inputs=images, data_samples=samples)

    def _statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation as rows of pixels, which are laid out once."""
        width, channels = images.shape[-1], images.shape[1]
        key = width, channels, images.device, self.mean.dtype
        if self._rows is None or self._rows[0] != key:
            mean = row_of(self.mean, width, channels)
            self._rows = key, (mean, row_of(self.std, width, channels))
        return self._rows[1]
