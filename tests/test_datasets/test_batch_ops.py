"""Batches against mmpretrain's transforms, image by image and bit by bit."""

import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip
from mmpretrain.datasets.transforms import RandomCrop
from mmpretrain.models.utils import ClsDataPreprocessor

from cakd_mm.datasets import batch_ops
from cakd_mm.datasets.batch_ops import normalized, select, windows
from cakd_mm.datasets.random_window import RandomWindow


def pictures(count=7, height=6, width=5, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, height, width, channels)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def one_by_one(images, crop, flip, draws):
    """What mmpretrain makes of each image if it draws these numbers."""
    out = []
    for image, top, left, mirrored in zip(
        images.numpy(), draws.top, draws.left, draws.flips, strict=True
    ):
        results = dict(img=image if image.shape[-1] > 1 else image[..., 0])
        with pytest.MonkeyPatch.context() as patch:
            drawn = iter([top, left]).__next__
            patch.setattr(np.random, 'randint', lambda *_, drawn=drawn: drawn())
            results = crop.transform(results)
            choice = 'horizontal' if mirrored else None
            patch.setattr(flip, '_choose_direction', lambda choice=choice: choice)
            results = flip.transform(results)
        out.append(np.atleast_3d(results['img']).copy())
    return torch.from_numpy(np.stack(out))


@pytest.fixture(params=['host', 'device'])
def _way(request, monkeypatch):
    """Work as on a host and, with its tensors, as on other devices."""
    if request.param == 'device':
        for name in ('_cut', '_reversed'):
            other = getattr(batch_ops, f'{name}_on_device')
            monkeypatch.setattr(batch_ops, f'{name}_on_host', other)


@pytest.mark.usefixtures('_way')
@pytest.mark.parametrize(
    ('channels', 'pad_val'),
    [(1, 128), (3, 7.6), (3, (10, 20, 30))],
    ids=str,
)
@pytest.mark.parametrize('padding', [None, (1, 3), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize('size', [(4, 3), (8, 2)], ids=str)
def test_a_batch_is_what_mmpretrain_makes_of_each(size, padding, pad_val, channels):
    """A fill of one number goes into the first channel only: so mmcv pads."""
    crop = RandomCrop(size, padding=padding, pad_val=pad_val)
    flip = RandomFlip(prob=0.5)
    images = pictures(40, channels=channels)
    window = RandomWindow(crop, flip.prob)
    draws = window.draw(3, 1, len(images), images.shape[1:3])
    found = window.cut(images, np.arange(len(images)), draws)
    assert found.is_contiguous()
    assert torch.equal(found, one_by_one(images, crop, flip, draws))
    assert 0 < draws.flips.sum() < len(images)


@pytest.mark.usefixtures('_way')
def test_a_place_without_an_image():
    zeros, flips = np.zeros(2, np.int64), np.zeros(2, bool)
    for wrong in (7, 10**6, -1, -8):
        with pytest.raises(IndexError, match=str(wrong)):
            windows(pictures(), np.array([3, wrong]), zeros, zeros, flips, (6, 5))


def test_some_of_the_images():
    images, places = pictures(), np.array([4, 0, 4, -1])
    assert torch.equal(select(images, places), images[[4, 0, 4, -1]])


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.usefixtures('_way')
@pytest.mark.parametrize('to_rgb', [False, True])
@pytest.mark.parametrize('layout', ['rows', 'planes'])
@pytest.mark.parametrize(
    ('channels', 'mean', 'std'),
    [(3, MEAN, STD), (3, [128.0], [60.1]), (1, [33.3], [7.7])],
)
def test_normalised_bit_for_bit_as_the_preprocessor_does(
    channels, mean, std, layout, to_rgb
):
    images = pictures(channels=channels).permute(0, 3, 1, 2)
    images = images if layout == 'rows' else images.contiguous()
    before = images.clone()
    model = ClsDataPreprocessor(mean=mean, std=std, to_rgb=to_rgb)
    expected = model(dict(inputs=images))['inputs']
    found = normalized(images, model.mean, model.std, to_rgb)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


@pytest.mark.usefixtures('_way')
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_statistics_of_other_precisions(dtype):
    """A preprocessor that was cast with its model."""
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    mean, std = (
        torch.tensor(x).view(3, 1, 1).to(dtype) for x in ([50.0] * 3, [10.0] * 3)
    )
    assert torch.equal(normalized(images, mean, std), torch.full((2, 3, 4, 4), 5.0))
    floats = normalized(images.float(), mean.float(), std.float())
    assert torch.equal(floats, torch.full((2, 3, 4, 4), 5.0))
