"""A batch preprocessed as one is the batch preprocessed image by image."""

import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import DefaultScope
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from tiny import digits_config, distill_config

from cakd_mm.datasets.label_batch import LabelBatch
from cakd_mm.models.data_preprocessors import BatchPreprocessor
from cakd_mm.models.data_preprocessors import batch_preprocessor as module

RGB = dict(mean=[122.5, 114.4, 101.6], std=[64.3, 62.4, 66.1], num_classes=10)


def batch(channels=3, size=(9, 7), count=5):
    generator = torch.Generator().manual_seed(0)
    shape = (count, *size, channels)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = LabelBatch(gt_label=torch.arange(count) % 10)
    labels.sample_idx = torch.arange(count).numpy()
    return dict(inputs=images.permute(0, 3, 1, 2), data_samples=labels)


def listed(data):
    images = list(data['inputs'].contiguous())
    return dict(inputs=images, data_samples=list(data['data_samples']))


SETTINGS = {
    'rgb': dict(RGB, to_rgb=True),
    'bgr': dict(RGB, to_rgb=False),
    'one number': dict(mean=[120.0], std=[60.0]),
    'no numbers': dict(to_rgb=True),
}


@pytest.mark.parametrize('name', sorted(SETTINGS))
def test_bit_for_bit_what_mmpretrain_makes(name, monkeypatch):
    expected = ClsDataPreprocessor(**SETTINGS[name])(listed(batch()), True)
    preprocessor = BatchPreprocessor(**SETTINGS[name])
    # Proves that it is not the ordinary way that gives these.
    monkeypatch.delattr(ClsDataPreprocessor, 'forward')
    for size in ((9, 7), (9, 11), (9, 7)):  # a row is laid out anew
        found = preprocessor(batch(size=size), True)
    assert torch.equal(found['inputs'], expected['inputs'])
    labels = [sample.gt_label for sample in expected['data_samples']]
    assert torch.equal(found['data_samples'].gt_label, torch.cat(labels))


@pytest.mark.parametrize('channels_last', [False, True])
def test_memory_format(channels_last):
    found = BatchPreprocessor(channels_last=channels_last, **RGB)(batch())['inputs']
    assert found.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert found.is_contiguous() != channels_last
    expected = ClsDataPreprocessor(**RGB)(listed(batch()))['inputs']
    assert torch.equal(found, expected)


def test_grey_images():
    settings = dict(mean=[120.0], std=[60.0])
    expected = ClsDataPreprocessor(**settings)(listed(batch(1)))['inputs']
    assert torch.equal(BatchPreprocessor(**settings)(batch(1))['inputs'], expected)


@pytest.mark.parametrize(
    'settings',
    [dict(to_onehot=True), dict(pad_size_divisor=4)],
    ids=lambda settings: next(iter(settings)),
)
def test_what_needs_the_images_one_by_one(settings):
    settings = dict(RGB, **settings)
    found = BatchPreprocessor(**settings)(batch(), True)
    expected = ClsDataPreprocessor(**settings)(listed(batch()), True)
    assert torch.equal(found['inputs'], expected['inputs'])
    for one, other in zip(found['data_samples'], expected['data_samples'], strict=True):
        assert torch.equal(one.gt_label, other.gt_label)
        assert ('gt_score' in one) == ('gt_score' in other)


def test_a_list_of_samples_goes_the_ordinary_way():
    expected = ClsDataPreprocessor(**RGB)(listed(batch()), True)
    found = BatchPreprocessor(**RGB)(listed(batch()), True)
    assert torch.equal(found['inputs'], expected['inputs'])


def test_batches_without_labels():
    data = dict(inputs=batch()['inputs'])
    expected = ClsDataPreprocessor(**RGB)(data)
    found = BatchPreprocessor(**RGB)(data)
    assert torch.equal(found['inputs'], expected['inputs'])
    assert found['data_samples'] is None


def algorithm(tmp_path, head='LinearClsHead'):
    cfg = distill_config(tmp_path)
    model = cfg.model
    model.architecture.head.type = head
    model.data_preprocessor = cfg.data_preprocessor
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(model).train()


def losses(model, data):
    data = model.data_preprocessor(data, True)
    return {k: v.item() for k, v in model(**data, mode='loss').items()}


def test_an_algorithm_makes_no_sample_of_a_batch(tmp_path, monkeypatch):
    model = algorithm(tmp_path)
    expected = losses(model, listed(batch(size=(16, 16))))
    assert len(expected) == 2
    monkeypatch.setattr(
        LabelBatch, '_make_samples', lambda self: pytest.fail('samples are made')
    )
    assert losses(model, batch(size=(16, 16))) == pytest.approx(expected, rel=1e-4)


def test_a_head_that_wants_samples_gets_them(tmp_path, monkeypatch):
    model = algorithm(tmp_path)
    head = type(model.student.head)
    seen = []

    def own_loss(self, scores, samples, **kwargs):
        seen.extend(samples)
        return super(head, self)._get_loss(scores, samples, **kwargs)

    expected = losses(model, listed(batch(size=(16, 16))))
    monkeypatch.setattr(head, '_get_loss', own_loss)
    assert losses(model, batch(size=(16, 16))) == pytest.approx(expected, rel=1e-4)
    assert [sample.gt_label.tolist() for sample in seen] == [[0], [1], [2], [3], [4]]


def test_it_is_the_algorithms_default():
    cfg = digits_config('cakd/demo_digits.py')
    assert 'type' not in cfg.data_preprocessor
    assert module.BatchPreprocessor is MODELS.get('BatchPreprocessor')


def test_a_std_that_would_not_be_used():
    with pytest.raises(ValueError, match=r'`data_preprocessor\.std` = \[2\.0\]: '):
        BatchPreprocessor(std=[2.0])


# Several views of each image


def viewed(collate):
    """Return two views of five images as a loader gives them, and each by itself."""
    first, second = batch(), batch()
    second['inputs'] = 255 - second['inputs']
    pairs = zip(first['inputs'], second['inputs'], first['data_samples'], strict=True)
    items = [dict(inputs=[a, b], data_samples=sample) for a, b, sample in pairs]
    return collate(items), first, second


@pytest.mark.parametrize('collate', [default_collate, pseudo_collate])
@pytest.mark.parametrize('settings', [RGB, dict(RGB, to_onehot=True)])
def test_two_views_are_preprocessed_as_two_batches(collate, settings):
    views, *single = viewed(collate)
    preprocessor = BatchPreprocessor(**settings)
    found = preprocessor(views, True)
    apart = [preprocessor(data, True) for data in single]
    assert torch.equal(found['inputs'], torch.cat([x['inputs'] for x in apart]))
    samples = [sample for data in apart for sample in data['data_samples']]
    for one, other in zip(found['data_samples'], samples, strict=True):
        assert torch.equal(one.gt_label, other.gt_label)
        assert one.sample_idx == other.sample_idx
        assert ('gt_score' in one) == ('gt_score' in other) == (settings != RGB)


def test_views_are_mixed_as_images_of_their_own():
    views, *_ = viewed(default_collate)
    augments = dict(augments=dict(type='Mixup', alpha=1.0))
    torch.manual_seed(0)
    found = BatchPreprocessor(**RGB, batch_augments=augments)(views, True)
    scores = torch.stack([sample.gt_score for sample in found['data_samples']])
    assert scores.shape == (10, 10)
    assert torch.allclose(scores.sum(1), torch.ones(10))
    # A row of its own for each view, though both are of one image.
    assert not torch.equal(scores[:5], scores[5:])
