"""What images a net takes."""

import pytest
from mmengine.config import Config
from tiny import image_classifier

from cakd_mm.deployment.images import Images, Normalised, images_of

FILES = dict(
    type='CustomDataset',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=24)],
)
DECODED = dict(type='DecodedImages', size=24, pipeline=[dict(type='PackInputs')])
ARRAYS = dict(type='Digits', pipeline=[dict(type='Resize', scale=24)])
VALUES = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])


@pytest.mark.parametrize(
    ('dataset', 'to_rgb', 'order'),
    [
        (FILES, True, 'RGB'),
        (FILES, False, 'BGR'),
        (DECODED, False, 'BGR'),
        (ARRAYS, False, 'RGB'),
        (None, False, 'RGB'),
    ],
)
def test_order_of_channels(dataset, to_rgb, order):
    net = image_classifier(dict(type='CIFARResNet', depth=8), 64, 3)
    net.data_preprocessor = type(net.data_preprocessor)(**VALUES, to_rgb=to_rgb)
    loader = dict(test_dataloader=dict(dataset=dataset)) if dataset else {}
    images = images_of(Config(dict(model=dict(), **loader)), net, None)
    assert images.order == order
    assert images.shape == ((3, 24, 24) if dataset else (3, 224, 224))
    assert (images.mean, images.std) == (VALUES['mean'], VALUES['std'])
    assert images.pipeline == (dataset['pipeline'] if dataset else [])


@pytest.mark.parametrize(('size', 'shape'), [([8], (3, 8, 8)), ([8, 12], (3, 8, 12))])
def test_another_size_and_no_normalisation(size, shape):
    net = image_classifier(dict(type='CIFARResNet', depth=8), 64, 3)
    images = images_of(Config(dict(model=dict())), net, size)
    assert images == Images(shape, 'RGB', [0.0], [1.0], [], is_known=True)


def test_a_pipeline_that_normalises_is_not_repeated():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Normalize', **VALUES)]
    dataset = dict(type='CustomDataset', pipeline=pipeline)
    net = image_classifier(dict(type='CIFARResNet', depth=8), 64, 3)
    cfg = Config(dict(model=dict(), test_dataloader=dict(dataset=dataset)))
    images = images_of(cfg, net, None)
    assert not images.is_known
    with pytest.raises(ValueError, match='`--normalize` = True: .*pipeline normalises'):
        Normalised(images)
