"""``TorchvisionClassifier``: torchvision's nets in a config of mmpretrain."""

import pytest
import torch
import torchvision
from mmpretrain.structures import DataSample
from tiny import build

NAME = dict(type='TorchvisionClassifier', model_name='shufflenet_v2_x0_5')
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_it_is_torchvision_s_net_with_its_names():
    net = build(dict(**NAME, num_classes=7)).eval()
    torch.manual_seed(1)
    genuine = torchvision.models.shufflenet_v2_x0_5(num_classes=7).eval()
    net.load_state_dict(genuine.state_dict())
    assert list(net.state_dict()) == list(genuine.state_dict())
    with torch.no_grad():
        scores = genuine(IMAGES)
        assert torch.equal(net(IMAGES), scores)
        samples = [DataSample().set_gt_label(label) for label in (3, 5)]
        loss = net.loss(IMAGES, samples)['loss']
        [first, _] = net.predict(IMAGES)
    wanted = -scores.log_softmax(1)[[0, 1], [3, 5]].mean()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(first.pred_score, scores[0].softmax(0))


# The last layer is called otherwise in each, and one is a convolution.
@pytest.mark.parametrize(
    ('name', 'width', 'size'),
    [('squeezenet1_1', 512, 64), ('mobilenet_v3_small', 1024, 32)],
)
def test_without_a_classifier_it_gives_what_that_would_be_given(name, width, size):
    options = dict(type='TorchvisionClassifier', model_name=name)
    whole = build(dict(**options, num_classes=2)).eval()
    net = build(dict(**options, num_classes=0)).eval()
    found = {k: v for k, v in whole.state_dict().items() if k in net.state_dict()}
    net.load_state_dict(found)
    assert len(whole.state_dict()) - len(found) == 2  # its weight and bias
    images = torch.randn(1, 3, size, size)
    seen = []
    last = whole.model.get_submodule(net.optional_layers[0])
    last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        whole(images)
        features = net(images)
    assert features.shape == (1, width)
    wanted = seen[0] if seen[0].dim() == 2 else seen[0].relu().mean((2, 3))
    torch.testing.assert_close(features, wanted)


def test_auxiliary_classifiers_are_left_out():
    net = build(dict(type='TorchvisionClassifier', model_name='googlenet')).train()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 1000)


@pytest.mark.parametrize(
    ('options', 'key', 'text'),
    [
        (dict(model_name='resnet19'), 'model_name', 'resnet18'),
        (dict(model_name='raft_small'), 'model_name', 'no classifier of that name'),
        (dict(weights='DEFAULT'), 'weights', r'model\.teacher_ckpt'),
        (dict(pretrained=True), 'pretrained', r'model\.student_ckpt'),
        (dict(num_classes=-1), 'num_classes', 'Write 0'),
        (
            dict(model_name='googlenet', aux_logits=True),
            'aux_logits',
            'would not be trained',
        ),
    ],
)
def test_what_it_refuses(options, key, text):
    with pytest.raises(ValueError, match=rf'`{key}` = .*{text}'):
        build({**NAME, **options})
