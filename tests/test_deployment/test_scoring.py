"""How a net's own prediction reads what it gives."""

import pytest
import torch
from mmengine.config import Config
from tiny import build

from cakd_mm.deployment.images import Images
from cakd_mm.deployment.scoring import ACTIVATIONS, Scoring, reading_of
from cakd_mm.deployment.student import Student

IMAGES = Images((3, 32, 32), 'RGB', [0.0], [1.0], [], is_known=True)


def student(head, backbone=None, neck=None):
    torch.manual_seed(0)
    backbone = backbone or dict(type='CIFARResNet', depth=8)
    neck = neck or dict(type='GlobalAveragePooling')
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    net = build(model)
    net.init_weights()
    return Student(net.eval(), Config(dict(model=model)), None, 0)


HEADS = {
    'LinearClsHead': 'softmax',
    'ArcFaceClsHead': 'softmax',
    'MultiLabelLinearClsHead': 'sigmoid',
}


@pytest.mark.parametrize('kind', HEADS)
def test_scores_are_those_of_the_net_s_own_prediction(kind):
    one = student(dict(type=kind, num_classes=4, in_channels=64))
    reading = reading_of(one, IMAGES)
    assert reading.activation == HEADS[kind]
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        found = Scoring(one.net, reading, None, reading.activation)(images)
        logits = Scoring(one.net, reading)(images)
        predicted = torch.stack([x.pred_score for x in one.net(images, mode='predict')])
    torch.testing.assert_close(found, predicted)
    assert torch.equal(ACTIVATIONS[reading.activation](logits), found)


def test_two_classifiers_are_added_as_the_head_does():
    head = dict(type='ConformerHead', num_classes=4, in_channels=[5, 6])
    one = student(head)
    features = [torch.randn(2, 5), torch.randn(2, 6)]
    one.net.extract_feat = lambda inputs: (features,)
    reading = reading_of(one, IMAGES)
    assert reading.activation == 'softmax'
    with torch.no_grad():
        two = one.net.head((features,))
        found = Scoring(one.net, reading)(torch.randn(2, 3, 32, 32))
    assert torch.equal(found, two[0] + two[1])


@pytest.mark.parametrize(
    ('head', 'kind'),
    [
        (None, 'tuple'),
        (
            dict(
                type='MultiTaskHead',
                task_heads=dict(
                    one=dict(type='LinearClsHead', num_classes=2),
                    two=dict(type='LinearClsHead', num_classes=3),
                ),
                in_channels=64,
            ),
            'dict',
        ),
    ],
)
def test_what_gives_no_scores_is_refused(head, kind):
    with pytest.raises(ValueError, match=rf'`model\.head` = .*CIFARResNet.*a {kind}\.'):
        reading_of(student(head), IMAGES)


def test_another_prediction_is_left_alone():
    one = student(dict(type='LinearClsHead', num_classes=4, in_channels=64))
    one.net.head.predict = lambda feats, samples: []
    reading = reading_of(one, IMAGES)
    assert reading.activation is None
    assert Scoring(one.net, reading)(torch.randn(1, 3, 32, 32)).shape == (1, 4)
