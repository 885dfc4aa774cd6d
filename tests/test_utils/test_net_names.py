"""Nets by name, for any number of classes."""

import pytest
from mmengine.config import Config, ConfigDict
from tiny import CONFIGS, build

from cakd_mm.utils.net_names import named_net, with_classes, without_downloads

KEY = '--student'


@pytest.mark.parametrize(
    ('name', 'backbone'),
    [
        ('resnet18', dict(type='ResNet', depth=18)),
        ('mmpretrain:resnet18', dict(type='ResNet', depth=18)),
        ('resnet20', dict(type='CIFARResNet', depth=20)),
        ('resnet20_digits', dict(type='CIFARResNet', depth=20)),
        ('cakd_mm::vanilla/resnet8_digits.py', dict(type='CIFARResNet', depth=8)),
        (str(CONFIGS / 'cakd/demo_digits.py'), dict(type='CIFARResNet', depth=8)),
        ('Swin-Tiny_16xb64_in1k', dict(type='SwinTransformer', arch='tiny')),
        ('swin_transformer/tiny_224', dict(type='SwinTransformer', arch='tiny')),
    ],
)
def test_ways_to_name_a_net(name, backbone):
    found = named_net(name, KEY)
    assert {x: found.net.backbone[x] for x in backbone} == backbone
    assert 'data_preprocessor' not in found.net
    assert found.name == name


@pytest.mark.parametrize('name', ['resnet20', 'wrn16-2'])
def test_a_short_name_is_the_same_net_for_all_sets(name):
    files = (CONFIGS / 'vanilla').glob(f'{name}_*.py')
    read = [Config.fromfile(x, import_custom_modules=False).model for x in files]
    nets = [with_classes(net, 7) for net in read]
    assert len(nets) > 1
    found = with_classes(named_net(name, KEY).net, 7)
    assert found.pop('_scope_') == 'mmpretrain'
    assert nets == [found] * len(nets)


def test_what_a_config_says_of_its_images_and_imports(tmp_path):
    file = tmp_path / 'own.py'
    file.write_text(
        "_base_ = 'cakd_mm::vanilla/resnet8_digits.py'\n"
        "custom_imports = dict(imports=['cakd_mm', 'json'])\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='CIFAR10'))\n"
    )
    found = named_net(str(file), KEY)
    assert found.imports == ['json']
    # Arrays of CIFAR-10 are RGB, so to_rgb=False means RGB.
    expected = dict(mean=[77.8] * 3, std=[95.7] * 3, to_rgb=True)
    assert found.preprocessor == expected


@pytest.mark.parametrize(
    ('name', 'kind', 'text'),
    [
        (
            'tim:resnet18',
            ValueError,
            "'tim' are not known. Write NAME, mmpretrain:NAME",
        ),
        # mmpretrain has two nets of this name.
        ('tiny_224', ValueError, "'hivit/tiny_224'"),
        ('resnet81', ValueError, "Like it: 'resnet"),
        ('none.py', FileNotFoundError, 'No such file'),
        ('mmpretrain::none.py', FileNotFoundError, 'It cannot be read'),
    ],
)
def test_unknown_names(name, kind, text):
    with pytest.raises(kind, match=f'`{KEY}` = ') as error:
        named_net(name, KEY)
    assert text in str(error.value)


def test_every_number_of_classes_is_changed():
    loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=1000)
    net = ConfigDict(
        type='ImageClassifier',
        backbone=dict(type='LeNet5', num_classes=1000),
        head=dict(type='ClsHead', loss=loss),
        train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)),
    )
    fitted = with_classes(net, 3)
    assert fitted.head.loss.num_classes == 3
    assert 'train_cfg' not in fitted
    assert build(fitted).backbone.classifier[-1].out_features == 3
    assert net.backbone.num_classes == 1000


def test_weights_on_a_server_are_left_out():
    url = 'https://example.org/x.pth'
    part = dict(type='ResNet', init_cfg=dict(type='Pretrained', checkpoint=url))
    own = dict(init_cfg=dict(type='Pretrained', checkpoint='/here/x.pth'))
    net, left_out = without_downloads(ConfigDict(backbone=part, neck=[own]))
    assert left_out == [url]
    assert net == dict(backbone=dict(type='ResNet'), neck=[own])
