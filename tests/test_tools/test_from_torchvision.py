"""``tools/model_converters/from_torchvision.py``."""

import pytest
import torch
import torchvision
from mmpretrain import get_model
from tools_inside import run_tool, torchvision_net
from torch.testing import assert_close

from cakd_mm.utils import torchvision_weights

# Torchvision's name, and mmpretrain's config with its own name for the net.
NETS = {
    'resnet18': ('resnet18', 'resnet18_8xb32_in1k'),
    'resnet34': ('resnet34', 'resnet34_8xb32_in1k'),
    'resnet50': ('resnet50', 'resnet50_8xb32_in1k'),
    'mobilenetv2': ('mobilenet_v2', 'mobilenet-v2_8xb32_in1k'),
}


@pytest.fixture
def convert(monkeypatch, tmp_path):
    """Run the tool in this process on saved weights."""

    def run(weights, arch, *options):
        source, out = tmp_path / 'torchvision.pth', tmp_path / 'made' / f'{arch}.pth'
        torch.save(weights, source)
        tool = 'model_converters/from_torchvision.py'
        run_tool(monkeypatch, tool, source, out, '--arch', arch, *options)
        return out

    return run


@torch.no_grad()
def calibrated(net):
    """Give the normalisations statistics that keep the signal through a deep net."""
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    net.train()(torch.randn(8, 3, 64, 64))
    for norm in norms:
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
    return net.eval()


def test_every_net_is_tried():
    assert torchvision_weights.ARCHS.keys() == NETS.keys()


@pytest.mark.parametrize('arch', NETS)
def test_converted_net_gives_torchvisions_scores(convert, capsys, arch):
    theirs, ours = NETS[arch]
    net = calibrated(torchvision_net(theirs))
    path = convert(net.state_dict(), arch)
    assert capsys.readouterr().out == f'wrote {path}\n'
    assert torch.load(path)['meta'] == dict(arch=arch, source='torchvision')
    model = get_model(ours, pretrained=str(path)).eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        found, expected = model(images, mode='tensor'), net(images)
    # The two images are told apart.
    assert (expected[0] - expected[1]).std() > 0.1
    assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize('key', [None, 'model'])
def test_weights_may_lie_under_a_key(convert, key):
    weights = torchvision_net('resnet18', 3).state_dict()
    path = convert(weights if key is None else {key: weights, 'epoch': 3}, 'resnet18')
    found = torch.load(path)['state_dict']
    assert len(found) == len(weights)
    assert torch.equal(found['head.fc.weight'], weights['fc.weight'])
    assert torch.equal(
        found['backbone.layer2.1.bn2.running_var'], weights['layer2.1.bn2.running_var']
    )


@pytest.mark.parametrize(
    ('weights_of', 'change', 'arch', 'problem'),
    [
        ('resnet34', {}, 'resnet18', 'unexpected keys'),
        (
            *('mobilenet_v2', {'features.19.0.weight': torch.zeros(7)}, 'mobilenetv2'),
            r'unexpected keys \(features.19.0.weight\)',
        ),
        # It has a `features.0.0.weight` too.
        ('mobilenet_v3_small', {}, 'mobilenetv2', 'unexpected keys'),
    ],
)
def test_weights_of_another_net_are_refused(
    convert, tmp_path, weights_of, change, arch, problem
):
    weights = {**torchvision_net(weights_of, 10).state_dict(), **change}
    with pytest.raises(ValueError, match=f"`--arch` = '{arch}'.*{problem}"):
        convert(weights, arch)
    assert not (tmp_path / 'made').exists()


def test_the_asked_number_of_classes_is_checked(convert, tmp_path):
    weights = torchvision_net('mobilenet_v2', classes=10).state_dict()
    with pytest.raises(ValueError, match=r'\(10, 1280\) in the file, \(7, 1280\)'):
        convert(weights, 'mobilenetv2', '--num-classes', 7)
    assert not (tmp_path / 'made').exists()
    assert convert(weights, 'mobilenetv2', '--num-classes', 10).is_file()


def test_unknown_net_and_missing_file_are_named(convert, capsys):
    with pytest.raises(SystemExit):
        convert({}, 'vgg16')
    assert "invalid choice: 'vgg16'" in capsys.readouterr().err
    for arch, name in (('resnet34', 'IMAGENET1K_V1'), ('mobilenetv2', 'IMAGENET1K_V2')):
        with pytest.raises(FileNotFoundError, match=f"`source` = 'absent.pth'.*{name}"):
            torchvision_weights.read_torchvision('absent.pth', arch)


@pytest.mark.parametrize(
    ('arch', 'name'), [('resnet34', 'IMAGENET1K_V1'), ('mobilenetv2', 'IMAGENET1K_V2')]
)
def test_published_weights_are_named_not_searched(monkeypatch, arch, name):
    """The name in the config's command reaches torchvision, with its hash checked."""
    seen = {}
    enum = torchvision.models.get_model_weights(NETS[arch][0])

    def get_state_dict(self, **options):
        seen.update(options, weights=self)
        return {}

    monkeypatch.setattr(enum, 'get_state_dict', get_state_dict)
    torchvision_weights.read_torchvision(name, arch)
    assert seen['weights'] is enum[name]
    assert seen['check_hash'] is True
