"""Taps of nets whose parts are not a plain sequence of stages."""

import pytest
import torch
from tiny import build

from cakd_mm.models.recorders import TapRecorder
from cakd_mm.models.taps import dry_run, points_of


def record(net, source, images):
    recorder = TapRecorder(source=source)
    recorder.initialize(net)
    with torch.no_grad(), recorder:
        net(images, mode='tensor')
    return recorder.get_record_data()


def hugging_face(model_type, **values):
    transformers = pytest.importorskip('transformers')
    if not transformers.is_torch_available():
        pytest.skip('this transformers needs a newer PyTorch')
    torch.manual_seed(0)
    config = dict(model_type=model_type, depths=[1, 1, 2, 1], **values)
    return build(dict(type='HuggingFaceBackbone', config=config)).eval()


def timm(model_name, **values):
    pytest.importorskip('timm')
    return build(dict(type='TimmClassifier', model_name=model_name, **values)).eval()


def test_a_stage_that_ends_with_the_next_size_is_looked_into():
    net = hugging_face(
        'swin',
        embed_dim=8,
        num_heads=[1, 1, 2, 2],
        image_size=64,
        patch_size=4,
        window_size=2,
    )
    images = torch.randn(2, 3, 64, 64)
    assert points_of(net)['stage4'].module == 'model.layernorm'
    tokens = []
    ends = ((0, 0), (1, 0), (2, 1))
    layers = net.model.encoder.layers
    for stage, block in ends:
        layers[stage].blocks[block].register_forward_hook(
            lambda module, inputs, output: tokens.append(output)
        )
    for index in (1, 2, 3):
        tokens.clear()
        seen = record(net, f'stage{index}', images)
        output = tokens[index - 1]
        output = output[0] if isinstance(output, tuple) else output
        assert torch.equal(seen.flatten(2).transpose(1, 2), output)


def test_tokens_in_another_order_are_no_maps():
    net = hugging_face(
        'hiera', embed_dim=8, num_heads=[1, 2, 2, 4], image_size=[64, 64]
    )
    names = [x for x in points_of(net) if x.startswith('stage')]
    assert names == ['stage4', 'stage4_pre']
    images = torch.randn(2, 3, 64, 64)
    last = net.extract_feat(images).last_hidden_state
    stage = record(net, 'stage4', images)
    assert torch.equal(stage.flatten(2).transpose(1, 2), last)


def test_a_pooled_output_is_a_vector():
    net = hugging_face('resnet', embedding_size=8, hidden_sizes=[8, 8, 8, 16])
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(record(net, 'pooled', images), net(images))


def test_a_pool_to_a_fixed_size_is_no_stage():
    """It gives 7 x 7 of images of any size, more than the map before it has."""
    net = build(dict(type='TorchvisionClassifier', model_name='vgg11', num_classes=3))
    images = torch.randn(1, 3, 224, 224)
    last = net.model.features[20:](record(net.eval(), 'stage3', images))
    assert torch.equal(record(net, 'stage4', images), last)


def test_scores_of_positions_are_no_stage():
    name = 'squeezenet1_1'
    net = build(dict(type='TorchvisionClassifier', model_name=name, num_classes=3))
    assert points_of(net)['stage4'].channels == 512


def test_images_that_are_cut_before_the_first_convolution():
    assert dry_run(timm('tresnet_m', num_classes=3)).images.shape[1] == 3
