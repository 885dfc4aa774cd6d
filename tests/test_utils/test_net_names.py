"""Nets by name, for any number of classes."""

import json

import pytest
from mmengine.config import Config, ConfigDict
from own_images import save_vit
from tiny import CONFIGS, build

from cakd_mm.utils.net_names import (
    as_absolute,
    named_net,
    with_classes,
    without_downloads,
)

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
        ('vit-base', ValueError, "Like it: 'vit-base-p16', 'vit-base-p32'"),
        ('ResNet18', ValueError, "Like it: 'resnet18'"),
        ('deit', ValueError, "Like it: 'deit3-base-p16-224'"),
        ('efficientnet', ValueError, "Like it: 'efficientnet_b0'"),
        ('convnext_tiny', ValueError, "'convnext-tiny', "),
        ('convnext_tiny', ValueError, "'torchvision:convnext_tiny'"),
        ('torchvision:vit-b', ValueError, "'torchvision:vit_b_16'"),
        ('torchvision:fcn_resnet50', ValueError, 'no net of that name that classifies'),
        ('none.py', FileNotFoundError, 'No such file'),
        ('mmpretrain::none.py', FileNotFoundError, 'It cannot be read'),
    ],
)
def test_unknown_names(name, kind, text):
    with pytest.raises(kind, match=f'`{KEY}` = ') as error:
        named_net(name, KEY)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ('name', 'mean', 'size'),
    [
        ('timm:resnet18', 123.675, 224),
        ('timm:vit_small_patch14_dinov2.lvd142m', 123.675, 518),
        ('timm:vit_base_patch16_clip_224.openai', 122.771, 224),
        ('timm:inception_v3', 127.5, 299),
        ('torchvision:vit_b_16', 123.675, 224),
    ],
)
def test_nets_of_other_packages(name, mean, size):
    package, _, rest = name.partition(':')
    pytest.importorskip(package)
    found = named_net(name, KEY)
    assert (found.net.model_name, found.net._scope_) == (rest, 'mmpretrain')
    assert found.preprocessor['mean'][0] == mean
    assert found.preprocessor['to_rgb'] is True
    assert (found.size, found.weights) == (size, None)
    fitted = with_classes(found.net, 7)
    assert fitted.num_classes == 7


def test_nets_of_torchvision_that_normalise_themselves():
    assert named_net('torchvision:googlenet', KEY).net.transform_input is True
    assert 'transform_input' not in named_net('torchvision:resnet18', KEY).net


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('timm:resnet81', "Like it: 'timm:resnet18'"),
        ('timm:vit-tiny', "'timm:vit_tiny_patch16_224'"),
        ('timm:resnet18.a9', "no weights 'a9' of resnet18. Like it: 'timm:resnet18'"),
        # It would be downloaded.
        ('timm:hf-hub:timm/resnet18', 'timm has no net of that name'),
    ],
)
def test_names_that_timm_lacks(name, text):
    pytest.importorskip('timm')
    with pytest.raises(ValueError, match=f'`{KEY}` = ') as error:
        named_net(name, KEY)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ('name', 'place', 'text'),
    [
        ('timm:resnet18', 'timm_nets', 'Type: pip install timm'),
        ('hf:folder', 'hugging_face_nets', 'Type: pip install transformers'),
    ],
)
def test_a_package_that_is_missing(name, place, text, monkeypatch):
    monkeypatch.setattr(f'cakd_mm.utils.net_names.{place}.find_spec', lambda _: None)
    with pytest.raises(ImportError) as error:
        named_net(name, KEY)
    assert text in str(error.value)


def test_a_folder_of_hugging_face(tmp_path, monkeypatch):
    folder = save_vit(tmp_path / 'saved net', ('cat', 'dog'))
    from transformers import EfficientNetImageProcessor, MobileViTImageProcessor

    found = named_net(f'hf:{folder}', KEY)
    assert found.net.model_name == str(folder)
    assert with_classes(found.net, 7).num_labels == 7
    assert found.weights == str(folder / 'model.safetensors')
    assert found.classes == ('cat', 'dog')
    assert (found.size, found.preprocessor) == (32, {})

    # It does not normalise, and turns the channels.
    MobileViTImageProcessor().save_pretrained(folder)
    bgr = dict(mean=[0, 0, 0], std=[255, 255, 255], to_rgb=False)
    assert named_net(f'hf:{folder}', KEY).preprocessor == bgr
    # It divides twice: (x / 255 - 0.4) / 0.5 / 0.5.
    twice = EfficientNetImageProcessor(image_mean=[0.4] * 3, include_top=True)
    twice.save_pretrained(folder)
    monkeypatch.chdir(folder.parent)
    seen = named_net(f'hf:{folder.name}', KEY).preprocessor
    assert seen == dict(mean=[102.0] * 3, std=[63.75] * 3, to_rgb=True)
    assert as_absolute(f'hf:{folder.name}') == f'hf:{folder}'


@pytest.mark.parametrize(
    ('config', 'text'),
    [
        (dict(model_type='vit', auto_map=dict(AutoModel='x.X')), 'auto_map'),
        (dict(architecture='resnet18'), 'Write timm:resnet18'),
        (dict(model_type='bert'), "no image classifier of model_type 'bert'"),
        ([], 'config.json cannot be read'),
    ],
)
def test_folders_that_are_refused(config, text, tmp_path):
    pytest.importorskip('transformers')
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f'`{KEY}` = ') as error:
        named_net(f'hf:{tmp_path}', KEY)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('hf:google/vit', 'Type: hf download google/vit --local-dir vit, and'),
        ('hf:./none', 'no such folder'),
        ('hf:.', 'no config.json in it'),
    ],
)
def test_no_folder_of_hugging_face(name, text, tmp_path, monkeypatch):
    pytest.importorskip('transformers')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='Write hf:FOLDER') as error:
        named_net(name, KEY)
    assert text in str(error.value)
    assert ('hf download' in str(error.value)) is ('google' in name)


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
    asked = ConfigDict(type='TimmClassifier', model_name='resnet18', pretrained=True)
    net, left_out = without_downloads(asked)
    assert left_out == ['pretrained=True of resnet18']
    assert net == dict(type='TimmClassifier', model_name='resnet18')
