import pytest
import torch
from test_cifar_resnet import TAPS, randomised, record
from test_wide_resnet import macs
from tiny import build
from torch import nn

from cakd_mm.models.backbones import CIFARShuffleNetV2

WIDTHS = (116, 232, 464)


def classifier(classes=100):
    return build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='CIFARShuffleNetV2'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=classes, in_channels=1024),
        )
    )


def order(channels):
    """The shuffle of two groups as a permutation: the halves, turn by turn."""
    return torch.arange(channels).view(2, -1).T.flatten()


@pytest.mark.parametrize(('classes', 'count'), [(100, 1_355_528), (200, 1_458_028)])
def test_parameter_count(classes, count):
    assert sum(p.numel() for p in classifier(classes).parameters()) == count


def test_multiplications():
    assert macs(classifier()) == 44_504_448


def test_state_dict_has_no_entries_for_taps():
    keys = classifier().state_dict().keys()
    assert len(keys) == 338
    assert {key.split('.')[1] for key in keys if key.startswith('backbone.')} == {
        *('conv1', 'bn1', 'stage1', 'stage2', 'stage3', 'conv2', 'bn2')
    }


@pytest.mark.parametrize('size', [16, 32, 64])
def test_the_stages_halve_the_size_and_the_last_is_widened(size):
    net = CIFARShuffleNetV2(out_indices=(0, 1, 2)).eval()
    outs = net(torch.randn(2, 3, size, size))
    assert [tuple(out.shape) for out in outs] == [
        (2, width, size >> i, size >> i)
        for i, width in enumerate((116, 232, 1024), start=1)
    ]


@pytest.mark.parametrize('size', [32, 64])
def test_a_row_of_logits_for_each_image_and_a_gradient_for_each_parameter(size):
    model = classifier(classes=7)
    logits = model(torch.randn(2, 3, size, size), mode='tensor')
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize('out_indices', [(0,), (1,), (2,), (0, 2), (2, 0)])
def test_out_indices_select_maps_in_order_of_depth(out_indices):
    net = randomised(CIFARShuffleNetV2())
    images = torch.randn(2, 3, 16, 16)
    seen, _ = record(net, images)
    wanted = [seen[f'stage{i}'][0] for i in (1, 2, 3)]
    wanted[2] = net.bn2(net.conv2(wanted[2])).relu()
    net.out_indices = out_indices
    outs = net(images)
    assert len(outs) == len(out_indices)
    for index, out in zip(sorted(out_indices), outs, strict=True):
        assert torch.equal(out, wanted[index])


@pytest.mark.parametrize('training', [False, True])
def test_taps_lie_before_and_after_the_last_relu_and_shuffle(training):
    net = randomised(CIFARShuffleNetV2()).train(training)
    assert {*TAPS} <= dict(net.named_modules()).keys()  # as recorders find them
    seen, _ = record(net, torch.randn(4, 3, 16, 16))
    for index, width in enumerate(WIDTHS, start=1):
        (post,), (pre,) = seen[f'stage{index}'], seen[f'stage{index}_pre']
        passed, made = pre.chunk(2, dim=1)
        assert passed.min() == 0  # it has been through a ReLU
        # Were the last ReLU in place, nothing negative would be left.
        assert (made < 0).float().mean() > 0.05
        assert torch.equal(pre.relu()[:, order(width)], post)


def test_the_block_that_halves_the_size():
    net = randomised(CIFARShuffleNetV2())
    x = torch.randn(2, 24, 8, 8)
    down = net.stage1[0]
    left = down.bn2(down.conv2(down.bn1(down.conv1(x)))).relu()
    right = down.bn4(down.conv4(down.bn3(down.conv3(x)).relu()))
    right = down.bn5(down.conv5(right)).relu()
    wanted = torch.cat((left, right), dim=1)[:, order(116)]
    assert torch.equal(down(x), wanted)


@pytest.mark.parametrize('place', [1, 3])
def test_the_units_with_and_without_a_tap(place):
    unit = randomised(CIFARShuffleNetV2()).stage1[place]
    assert (unit.pre_activation is None) == (place == 1)
    x = torch.randn(2, 116, 8, 8).relu()
    y = unit.bn1(unit.conv1(x[:, 58:])).relu()
    y = unit.bn3(unit.conv3(unit.bn2(unit.conv2(y)))).relu()
    assert torch.equal(unit(x), torch.cat((x[:, :58], y), dim=1)[:, order(116)])


@pytest.mark.parametrize('at', ['pre', 'post', 'both'])
def test_gradients_of_a_tapped_unit_are_those_of_a_relu_of_one_half(at):
    """The half that passes comes from a ReLU, with zeros: a second changes nothing."""
    unit = randomised(CIFARShuffleNetV2()).stage1[3].double()
    before = torch.randn(2, 116, 8, 8, dtype=torch.float64)
    directions = torch.randn(2, *before.shape, dtype=torch.float64)
    gradients = []
    for usual in (False, True):
        leaf = before.clone().requires_grad_()
        x = leaf.relu()
        if usual:
            passed, y = x[:, :58], x[:, 58:]
            y = unit.bn1(unit.conv1(y)).relu()
            y = unit.bn3(unit.conv3(unit.bn2(unit.conv2(y))))
            pre = torch.cat((passed, y), dim=1)
            post = torch.cat((passed, y.relu()), dim=1)[:, order(116)]
        else:
            held = []
            hook = unit.pre_activation.register_forward_hook(
                lambda _, __, out, held=held: held.append(out)
            )
            post = unit(x)
            hook.remove()
            [pre] = held
        loss = 0
        if at != 'post':
            loss = loss + (pre * directions[0]).sum()
        if at != 'pre':
            loss = loss + (post * directions[1]).sum()
        gradients.append(torch.autograd.grad(loss, [leaf, *unit.parameters()]))
    for ours, usual in zip(*gradients, strict=True):
        assert usual.abs().max() > 0
        torch.testing.assert_close(ours, usual, rtol=1e-10, atol=1e-12)


def test_gradient_reaches_the_stem_through_a_pre_tap():
    net = randomised(CIFARShuffleNetV2())
    seen, _ = record(net, torch.randn(2, 3, 16, 16))
    seen['stage2_pre'][0].square().sum().backward()
    assert net.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.stage3.parameters())


def test_initialisation_is_that_of_torch():
    torch.manual_seed(0)
    net = CIFARShuffleNetV2()
    net.init_weights()
    for conv in (net.stage3[1].conv1, net.stage3[0].conv4, net.conv2):
        bound = conv.weight[0].numel() ** -0.5
        assert bound * 0.95 < conv.weight.abs().max() <= bound
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert torch.equal(net.bn2.weight, torch.ones(1024))


def test_conv_norm_and_channels_come_from_the_config():
    net = CIFARShuffleNetV2(in_channels=1, norm_cfg=dict(type='GN', num_groups=2))
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert net(torch.randn(1, 1, 16, 16))[0].shape == (1, 1024, 2, 2)


@pytest.mark.parametrize('out_indices', [(3,), ()])
def test_bad_arguments_are_named(out_indices):
    with pytest.raises(ValueError, match='`backbone.out_indices` = .*stages 0 to 2'):
        CIFARShuffleNetV2(out_indices=out_indices)
