"""The fast teacher of detectors and segmentors."""

import pytest
import torch
from tiny import distillation

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from dense_nets import (
    SEGMENTORS,
    compared_at,
    dense_batch,
    retinanet,
    two_stages,
)

NETS = {
    'RetinaNet': (retinanet, 'logits2'),
    'Faster R-CNN': (lambda: two_stages('FasterRCNN'), 'fpn1'),
    'PSPNet': (SEGMENTORS['PSPNet'], 'logits'),
}


@pytest.mark.parametrize('name', NETS)
def test_a_fast_teacher_gives_what_the_plain_one_gives(name):
    """A second stage is told the size of the images there, too."""
    make, source = NETS[name]
    net = dict(make(), _scope_='mmseg' if name == 'PSPNet' else 'mmdet')
    distiller = compared_at(source)
    images, samples = dense_batch(net)
    found = []
    for options in ({}, dict(teacher_runtime=dict(compile=False, dtype='float32'))):
        model = distillation(distiller, net, net, **options)
        model(images, samples, mode='loss')
        model(images, samples, mode='loss')  # the copy is used in the second step
        found.append(model.distiller.get_record('x', False))
    assert torch.equal(*found)
