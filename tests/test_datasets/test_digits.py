from hashlib import sha256

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cakd_mm.datasets import Digits

# Of the pixels of all images, in order. A change of split, order or scaling
# would silently change every number the project has measured.
PINNED = dict(
    train='bb59eda17d858aa13670d99a2a543fbc2e5959764a44defe7dc554ee00254fc6',
    test='9ad09798538186eed7b53c928ad24d0dc47d189d0e054c3cd03c5283cad6635d',
)


def images_and_labels(split, **options):
    data = Digits(split=split, **options)
    items = [data[i] for i in range(len(data))]
    return np.stack([d['img'] for d in items]), np.array([d['gt_label'] for d in items])


@pytest.mark.parametrize(('split', 'size'), [('train', 1000), ('test', 797)])
def test_split_is_fixed(split, size):
    images, labels = images_and_labels(split)
    assert images.shape == (size, 8, 8, 3)
    assert images.dtype == np.uint8
    digest = sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    assert digest == PINNED[split]


def test_the_splits_are_all_scans_of_scikit_learn_in_its_order():
    source = load_digits()
    parts = [images_and_labels(split) for split in ('train', 'test')]
    images, labels = (np.concatenate(values) for values in zip(*parts, strict=True))
    assert np.array_equal(labels, source.target)
    # Sixteen grey levels 0..16 become 0..255, the same in all three channels.
    assert np.array_equal(images, np.repeat(images[..., :1], 3, axis=-1))
    assert np.array_equal(np.rint(images[..., 0] / 255.0 * 16), source.images)
    assert (images.min(), images.max()) == (0, 255)


def test_train_is_the_default_split():
    assert len(Digits()) == 1000
    names = tuple('0123456789')
    assert names == Digits().CLASSES == Digits(split='test').metainfo['classes']


def test_indices_and_pipeline_work_as_in_mmpretrain():
    data = Digits(
        split='test',
        indices=[3, 5],
        pipeline=[
            dict(type='mmpretrain.Resize', scale=16),
            dict(type='mmpretrain.PackInputs'),
        ],
    )
    assert len(data) == 2
    item = data[1]
    assert item['inputs'].shape == (3, 16, 16)
    assert item['data_samples'].gt_label.item() == load_digits().target[1000 + 5]


@pytest.mark.parametrize('split', ['val', 'Train', None])
def test_an_unknown_split_is_named(split):
    match = rf"`dataset.split` = {split!r}: .*Write 'train' or 'test'"
    with pytest.raises(ValueError, match=match):
        Digits(split=split)
