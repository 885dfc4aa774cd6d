"""Batches of several views become one batch, in the order of the views."""

import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmpretrain.structures import DataSample

from cakd_mm.datasets.views import images_in, joined, views_in

IMAGES = 3


def items(views=2, size=4):
    """Return items of a data set: images whose pixels say image and view."""
    return [
        dict(
            inputs=[torch.full((1, size, size), 10 * v + i) for v in range(views)],
            data_samples=DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i),
        )
        for i in range(IMAGES)
    ]


COLLATED = pytest.mark.parametrize('collate', [default_collate, pseudo_collate])


@COLLATED
@pytest.mark.parametrize('views', [2, 3])
def test_all_images_of_a_view_come_before_those_of_the_next(collate, views):
    batch = collate(items(views))
    assert views_in(batch) == views
    assert len(images_in(batch)) == IMAGES
    found = joined(batch)
    pixels = [int(image[0, 0, 0]) for image in found['inputs']]
    assert pixels == [10 * v + i for v in range(views) for i in range(IMAGES)]
    assert [x.gt_label.item() for x in found['data_samples']] == [0, 1, 2] * views
    assert [x.sample_idx for x in found['data_samples']] == [0, 1, 2] * views
    assert isinstance(found['inputs'], torch.Tensor) == (collate is default_collate)


@COLLATED
def test_each_view_has_annotations_of_its_own(collate):
    batch = collate(items())
    first, *_, last = joined(batch)['data_samples']
    first.set_gt_label(9)
    assert (batch['data_samples'][0].gt_label, last.gt_label) == (0, 2)
    assert joined(batch)['data_samples'][IMAGES].gt_label == 0


@pytest.mark.parametrize(
    'inputs',
    [
        torch.zeros(2, 1, 4, 4),
        [torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)],
        [torch.zeros(1, 4, 4), torch.zeros(2, 1, 4, 4)],
        [],
    ],
)
def test_a_batch_without_views_is_left_alone(inputs):
    batch = dict(inputs=inputs)
    assert views_in(batch) == 1
    assert images_in(batch) is inputs
    assert joined(batch) is batch


@pytest.mark.parametrize('batch', [None, (), {}, dict(data_samples=[])])
def test_what_is_no_batch_of_images_has_one_view(batch):
    assert views_in(batch) == 1
    assert joined(batch) is batch


def test_a_batch_without_annotations():
    batch = dict(inputs=[torch.zeros(2, 1, 4, 4)] * 2)
    assert joined(batch)['inputs'].shape == (4, 1, 4, 4)


@COLLATED
def test_views_of_several_sizes_are_refused(collate):
    data = items()
    for item in data:
        item['inputs'][1] = item['inputs'][1][:, :2].contiguous()
    with pytest.raises(ValueError, match=r'dataset\.pipeline.*2, 4.*4, 4.*MultiView'):
        joined(collate(data))
