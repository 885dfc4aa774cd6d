import pytest
import torch
from test_cifar_resnet import randomised
from test_wide_resnet import macs
from tiny import build
from torch import nn

from cakd_mm.models.backbones import MobileNetV1

WIDTHS = (128, 256, 512, 1024)
TAPS = [f'stage{i}{end}' for i in (1, 2, 3, 4) for end in ('', '_pre')]


def classifier(classes=1000):
    return build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='MobileNetV1'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=classes, in_channels=1024),
        )
    )


def record(net, images):
    seen = {name: [] for name in TAPS}
    modules = dict(net.named_modules())  # as mmrazor's recorders find them
    hooks = [
        modules[name].register_forward_hook(
            lambda _, __, output, name=name: seen[name].append(output)
        )
        for name in TAPS
    ]
    result = net(images)
    for hook in hooks:
        hook.remove()
    return seen, result


def test_parameter_count_is_that_of_mdistiller():
    assert sum(p.numel() for p in classifier().parameters()) == 4_231_976


def test_multiplications_of_an_image_of_imagenet():
    """The paper says 569 million."""
    assert macs(classifier(), size=224) == 568_740_352


def test_state_dict_has_no_entries_for_taps():
    keys = classifier().state_dict().keys()
    # The stem and 13 blocks of two convolutions and two norms, and the classifier.
    assert len(keys) == 6 + 13 * 12 + 2
    assert {key.split('.')[1] for key in keys if key.startswith('backbone.')} == {
        *('conv1', 'bn1', 'stage1', 'stage2', 'stage3', 'stage4')
    }


@pytest.mark.parametrize('size', [64, 224])
def test_the_stages_end_before_the_next_halving(size):
    net = MobileNetV1(out_indices=(0, 1, 2, 3)).eval()
    with torch.no_grad():
        outs = net(torch.randn(1, 3, size, size))
    assert [tuple(out.shape) for out in outs] == [
        (1, width, size >> i, size >> i) for i, width in enumerate(WIDTHS, start=2)
    ]
    assert [len(net.get_submodule(f'stage{i}')) for i in (1, 2, 3, 4)] == [3, 2, 6, 2]


@pytest.mark.parametrize('size', [32, 64])
def test_a_row_of_logits_for_each_image_and_a_gradient_for_each_parameter(size):
    model = classifier(classes=7)
    logits = model(torch.randn(4, 3, size, size), mode='tensor')
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize('out_indices', [(0,), (3,), (0, 2), (3, 1)])
def test_out_indices_select_maps_in_order_of_depth(out_indices):
    net = randomised(MobileNetV1())
    images = torch.randn(2, 3, 32, 32)
    seen, _ = record(net, images)
    net.out_indices = out_indices
    outs = net(images)
    for index, out in zip(sorted(out_indices), outs, strict=True):
        assert torch.equal(out, seen[f'stage{index + 1}'][0])


@pytest.mark.parametrize('training', [False, True])
def test_taps_lie_before_and_after_the_last_relu(training):
    net = randomised(MobileNetV1()).train(training)
    seen, outs = record(net, torch.randn(4, 3, 64, 64))
    for index in (1, 2, 3, 4):
        (post,), (pre,) = seen[f'stage{index}'], seen[f'stage{index}_pre']
        # Were the last ReLU in place, nothing negative would be left.
        assert (pre < 0).float().mean() > 0.05
        assert torch.equal(pre.relu(), post)
    assert torch.equal(outs[0], seen['stage4'][0])


def test_a_block_is_depthwise_then_pointwise_with_two_relus():
    net = randomised(MobileNetV1())
    block = net.stage2[0]
    assert block.conv1.weight.shape == (128, 1, 3, 3)
    assert block.conv2.weight.shape == (256, 128, 1, 1)
    x = torch.randn(2, 128, 8, 8)
    y = block.bn1(block.conv1(x)).relu()
    assert torch.equal(block(x), block.bn2(block.conv2(y)).relu())
    assert block(x).shape == (2, 256, 4, 4)


def test_gradient_reaches_the_stem_through_a_pre_tap():
    net = randomised(MobileNetV1())
    seen, _ = record(net, torch.randn(2, 3, 32, 32))
    seen['stage2_pre'][0].square().sum().backward()
    assert net.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.stage3.parameters())


def test_initialisation_is_that_of_torch():
    torch.manual_seed(0)
    net = MobileNetV1()
    net.init_weights()
    for conv in (net.stage4[1].conv1, net.stage4[1].conv2):
        bound = conv.weight[0].numel() ** -0.5
        assert bound * 0.95 < conv.weight.abs().max() <= bound
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert torch.equal(net.stage4[1].bn2.weight, torch.ones(1024))


def test_conv_norm_and_channels_come_from_the_config():
    net = MobileNetV1(in_channels=1, norm_cfg=dict(type='GN', num_groups=2))
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert net(torch.randn(1, 1, 64, 64))[0].shape == (1, 1024, 2, 2)


@pytest.mark.parametrize('out_indices', [(4,), ()])
def test_bad_arguments_are_named(out_indices):
    with pytest.raises(ValueError, match='`backbone.out_indices` = .*stages 0 to 3'):
        MobileNetV1(out_indices=out_indices)
