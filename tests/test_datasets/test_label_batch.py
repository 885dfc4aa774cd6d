import copy

import numpy as np
import pytest
import torch
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.structures import DataSample

from cakd_mm.datasets import LabelBatch


@pytest.fixture
def batch():
    return LabelBatch(
        gt_label=torch.tensor([4, 2, 9]),
        sample_idx=np.array([7, 0, 3]),
        img_path=['a', 'b', 'c'],
    )


@pytest.fixture
def count(monkeypatch):
    """Count the samples that are made."""
    made, init = [], DataSample.__init__

    def note(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(DataSample, '__init__', note)
    return made


def test_it_reads_as_the_list_of_its_samples(batch):
    assert len(batch) == 3
    samples = list(batch)
    assert all(type(sample) is DataSample for sample in samples)
    assert [sample.gt_label.tolist() for sample in samples] == [[4], [2], [9]]
    assert [sample.sample_idx for sample in samples] == [7, 0, 3]
    assert [sample.img_path for sample in samples] == ['a', 'b', 'c']
    assert set(samples[0].metainfo_keys()) == {'sample_idx', 'img_path'}
    assert batch[-1] is samples[2]
    assert batch[:2] == samples[:2]
    with pytest.raises(IndexError):
        batch[3]


def test_what_is_set_on_a_sample_stays(batch):
    for sample, score in zip(batch, torch.eye(3), strict=True):
        sample.set_pred_score(score)
    assert torch.equal(torch.stack([s.pred_score for s in batch]), torch.eye(3))


def test_labels_without_a_sample_for_each(batch, count):
    assert batch.gt_label.tolist() == [4, 2, 9]
    moved = BaseDataPreprocessor().cast_data(dict(data_samples=batch))['data_samples']
    assert isinstance(moved, LabelBatch)
    assert len(moved) == 3
    assert not count
    [single] = moved.as_single()
    assert torch.equal(single.gt_label, batch.gt_label)
    assert len(count) == 1


def test_preprocessors_move_the_labels_and_leave_the_places(batch):
    moved = BaseDataPreprocessor().to('meta').cast_data(batch)
    assert moved.gt_label.device.type == 'meta'
    assert isinstance(moved.sample_idx, np.ndarray)
    assert (moved.sample_idx, moved.img_path) == (batch.sample_idx, batch.img_path)
    assert batch.gt_label.device.type == 'cpu'


def test_a_heads_loss_of_the_single_sample_is_that_of_the_batch(batch):
    torch.manual_seed(0)
    head = LinearClsHead(num_classes=10, in_channels=4, topk=(1,), cal_acc=True)
    feats = (torch.randn(3, 4),)
    whole, single = head.loss(feats, list(batch)), head.loss(feats, batch.as_single())
    for name, value in head.loss(feats, batch).items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=0)
        torch.testing.assert_close(single[name], whole[name], rtol=0, atol=0)


def test_the_preprocessor_mixes_labels_as_for_a_list(batch):
    model = ClsDataPreprocessor(
        num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=0.8))
    )
    images = torch.arange(3 * 3 * 4 * 4, dtype=torch.uint8).view(3, 3, 4, 4)
    scores = []
    for samples in (batch, list(copy.deepcopy(batch))):
        np.random.seed(0)
        torch.manual_seed(0)
        data = model(dict(inputs=images, data_samples=samples), training=True)
        scores.append(torch.stack([s.gt_score for s in data['data_samples']]))
    assert torch.equal(*scores)
    assert ((scores[0] > 0).sum(1) == 2).any()  # mixed
