"""Which tensors of samples are moved, and which stay."""

import torch
from mmpretrain.structures import DataSample, MultiTaskDataSample

from cakd_mm.datasets.sample_labels import send_labels

META = torch.device('meta')


def test_what_mmpretrain_moves_and_nothing_else():
    sample = DataSample().set_gt_label([1, 2]).set_gt_score(torch.rand(3))
    sample.set_mask(torch.ones(2, 2))
    tasks = MultiTaskDataSample()
    tasks.set_field(DataSample().set_gt_label(1), 'colour')
    given = [sample, DataSample(), tasks, None, torch.ones(1)]
    [other] = send_labels(given, META, torch.arange(4))
    assert (other.device, other.shape) == (META, (4,))
    assert (sample.gt_label.device, sample.gt_label.shape) == (META, (2,))
    assert sample.gt_score.device == META
    assert sample.mask.device.type == 'cpu'
    assert tasks.colour.gt_label.device == META
    assert list(given[1].keys()) == []
    assert given[4].device.type == 'cpu'
