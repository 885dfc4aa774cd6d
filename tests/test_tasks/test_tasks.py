"""What tasks tell of nets, samples and configs."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from tiny import image_classifier

from cakd_mm.models.taps import classes_key, classes_of, gives_scores
from cakd_mm.tasks import TASKS, task_of, task_of_config

# isort: split
from mmrazor.registry import MODELS

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmdet.structures import DetDataSample
from mmseg.structures import SegDataSample
from tiny_scenes import FCN, RETINANET


@pytest.fixture(scope='module')
def nets():
    made = {}
    for name, net in (('detection', RETINANET), ('segmentation', FCN)):
        with DefaultScope.overwrite_default_scope('mmrazor'):
            made[name] = MODELS.build(Config(net))
    backbone = dict(type='CIFARResNet', depth=8)
    made['classification'] = image_classifier(backbone, 64, 7)
    return made


def test_each_net_has_its_task(nets):
    assert {name: task_of(net).name for name, net in nets.items()} == {
        name: name for name in nets
    }
    assert task_of(torch.nn.Linear(1, 1)) is TASKS[0]


@pytest.mark.parametrize(
    ('net', 'name'),
    [
        (RETINANET, 'detection'),
        (FCN, 'segmentation'),
        (dict(type='mmdet.RetinaNet', _scope_='mmdet'), 'detection'),
        (dict(type='ImageClassifier'), 'classification'),
        (dict(type='NoSuchNet'), 'classification'),
    ],
)
def test_task_of_a_config(net, name):
    assert task_of_config(Config(net)).name == name


def test_classes_and_their_key(nets):
    found = {name: classes_of(net) for name, net in nets.items()}
    assert found == dict(detection=10, segmentation=11, classification=7)
    keys = {name: classes_key(net, 'model') for name, net in nets.items()}
    assert keys == dict(
        detection='model.bbox_head.num_classes',
        segmentation='model.decode_head.num_classes',
        classification='model.head.num_classes',
    )
    assert all(gives_scores(net) for net in nets.values())


def test_labels_are_those_a_net_learns(nets):
    boxes = DetDataSample(gt_instances=InstanceData(labels=torch.tensor([3, 9])))
    pixels = torch.tensor([[[0, 255], [7, 255]]])
    parts = SegDataSample(gt_sem_seg=PixelData(data=pixels))
    whole = DataSample().set_gt_label(4)
    for name, sample, labels in (
        ('detection', boxes, [3, 9]),
        ('segmentation', parts, [0, 7]),
        ('classification', whole, [4]),
    ):
        net, task = nets[name], task_of(nets[name])
        assert task.labels(sample, net).tolist() == labels
        assert task.has_label(sample)
        empty = type(sample)()
        assert not task.has_label(empty)
        assert task.labels(empty, net) is None


def test_ignored_pixels_are_those_of_the_head(nets):
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([[[0, 255, 3]]])))
    net = nets['segmentation']
    net.decode_head.ignore_index, before = 3, net.decode_head.ignore_index
    try:
        assert task_of(net).labels(sample, net).tolist() == [0, 255]
    finally:
        net.decode_head.ignore_index = before


def test_images_of_a_config():
    shapes = {task.name: task.image_shape for task in TASKS}
    vit = Config(dict(model=dict(backbone=dict(img_size=(96, 64), in_channels=1))))
    plain = Config(dict(model=dict(backbone=dict(type='ResNet'))))
    for name in ('detection', 'segmentation'):
        assert shapes[name](plain) == (3, 128, 128)
        assert shapes[name](vit) == (1, 96, 64)


def test_second_stages_know_the_size_of_images(nets):
    [sample, _] = task_of(nets['detection']).samples_of(torch.zeros(2, 3, 32, 64))
    assert sample.img_shape == sample.batch_input_shape == (32, 64)
    assert sample.scale_factor == (1.0, 1.0)
