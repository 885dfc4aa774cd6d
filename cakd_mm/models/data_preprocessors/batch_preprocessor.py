"""Preprocessing of a whole batch, where the loader gives one."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.models.utils import CutMix, Mixup, RandomBatchAugment, ResizeMix
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...datasets.batch_ops import normalized, row_of
from ...datasets.label_batch import LabelBatch
from ...datasets.sample_labels import send_labels
from ...datasets.views import joined
from ...utils.errors import describe
from ...utils.transfer import send, send_together


@MODELS.register_module()
class BatchPreprocessor(ClsDataPreprocessor):
    """mmpretrain's ``ClsDataPreprocessor``, without a loop over the images.

    A batch of resident data (uint8 images and a :class:`LabelBatch`) is normalised as a
    whole, with the same result bit for bit. Anything else, and settings that need the
    images one by one (mixup, one-hot labels, padding), go the ordinary way. Either way
    the host does not wait until a batch has arrived on its device.

    A batch with several views of each image (mmpretrain's ``MultiView``) becomes one
    batch: all images of the first view, then all of the next. Their annotations are
    repeated.

    Args:
        channels_last (bool, optional): Leave such a batch in the memory format in
            which it is made. Nets then round in another way. None keeps the format of
            the batch that is given. Defaults to False.
        non_blocking (bool): Whether the host goes on while the batch is copied. False
            copies as mmpretrain does. Defaults to True.
        **kwargs: As in mmpretrain (``mean``, ``std``, ``to_rgb``, ...).
    """

    # Of the class, because one of mmpretrain's may be made one of these.
    channels_last: bool | None = False
    non_blocking = True
    _rows: tuple[tuple, tuple[Tensor, Tensor]] | None = None

    def __init__(
        self,
        channels_last: bool | None = False,
        non_blocking: bool = True,
        **kwargs: Any,
    ) -> None:
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
        self.non_blocking = non_blocking

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``inputs`` (N, C, H, W) float32 and ``data_samples``.

        Raises:
            ValueError: views of an image have several sizes or types.
        """
        data = joined(data)
        one_by_one = self.to_onehot or self.batch_augments or self.pad_size_divisor > 1
        samples = data.get('data_samples') if isinstance(data, dict) else None
        if isinstance(samples, LabelBatch) and one_by_one:
            # A list, because what is set on a sample has to stay.
            data = dict(data, data_samples=list(samples))
        if self.device.type == 'cpu' or not self.non_blocking:
            return self._preprocess(data, training)
        mixes = training and _draws_on_host(self.batch_augments)
        with _PermutationsOn(self.device) if mixes else nullcontext():
            return self._preprocess(self._sent(data), training)

    @torch.compiler.disable  # because nothing here can be compiled
    def _sent(self, data: dict) -> dict:
        """Return a batch whose images and labels are on their way to the device."""
        images, samples = data['inputs'], data.get('data_samples')
        if isinstance(images, (list, tuple)):
            if len({(image.shape, image.dtype) for image in images}) == 1:
                images = torch.stack(images)
            else:
                images = send_together(images, self.device)
        if isinstance(images, Tensor):
            images = send(images, self.device)
        if isinstance(samples, LabelBatch):
            samples = samples.new()
            samples.gt_label = send(samples.gt_label, self.device)
        elif isinstance(samples, (list, tuple)):
            send_labels(samples, self.device)
        return dict(data, inputs=images, data_samples=samples)

    def _preprocess(self, data: dict, training: bool) -> dict:
        samples = data.get('data_samples') if isinstance(data, dict) else None
        if not isinstance(samples, LabelBatch):
            return super().forward(data, training)
        images = data['inputs'].to(self.device)
        if self._enable_normalize:
            images = normalized(images, *self._statistics(images), self.to_rgb)
        else:
            images = (images.flip(1) if self.to_rgb else images).float()
        is_kept = self.channels_last
        if is_kept is None:
            is_kept = not data['inputs'].is_contiguous()
        if not is_kept:
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


def _draws_on_host(augments: Callable | None) -> bool:
    """Return whether images are mixed, by nothing but mmpretrain's own ways."""
    own = (Mixup, CutMix, ResizeMix, type(None))
    return isinstance(augments, RandomBatchAugment) and all(
        type(augment) in own for augment in augments.augments
    )


class _PermutationsOn(TorchFunctionMode):
    """Sends the permutations by which mmpretrain mixes images to their device.

    They are drawn on the host, as without this. An index on the host would make the
    host wait.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        return send(found, self.device) if function is torch.randperm else found
