"""Nets whose config is in another file, and what is written beside its name."""

import pytest
from mmengine.config import Config
from mmrazor.registry import MODELS
from tiny import CONFIGS

from cakd_mm.utils.extract import plain_config, student_model
from cakd_mm.utils.net_config import net_config, read_named

KEY = 'model.teacher'
R18 = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'


def test_a_net_in_place_stays_as_it_is():
    net = dict(type='ImageClassifier', backbone=dict(type='CIFARResNet', depth=8))
    found = net_config(net, KEY)
    assert found == net
    found.backbone.depth = 20
    assert net['backbone']['depth'] == 8


def test_a_config_by_name():
    net = dict(cfg_path=R18)
    found = net_config(net, KEY)
    assert net == dict(cfg_path=R18)
    assert (found.backbone.depth, found.head.num_classes) == (18, 1000)
    assert found._scope_ == 'mmpretrain'
    assert found.data_preprocessor.mean == [123.675, 116.28, 103.53]


@pytest.mark.parametrize('by_path', [True, False])
def test_what_is_written_beside_it_overrides(by_path, tmp_path):
    """Numbers deep inside, new keys, a part replaced, a part removed."""
    name = R18
    if by_path:
        name = str(tmp_path / 'net.py')
        (tmp_path / 'net.py').write_text(f'_base_ = {R18!r}')
    loss = dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)
    beside = dict(
        backbone=dict(depth=50, frozen_stages=1),
        neck=None,
        head=dict(num_classes=5, in_channels=2048, topk=(1,), loss=loss),
        data_preprocessor=dict(num_classes=5),
    )
    found = net_config(dict(cfg_path=name, **beside), KEY)
    assert (found.backbone.depth, found.backbone.frozen_stages) == (50, 1)
    assert found.backbone.num_stages == 4  # of the file
    assert found.neck is None
    assert found.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1)
    assert found.head.num_classes == 5
    assert found.data_preprocessor.num_classes == 5
    assert found.data_preprocessor.to_rgb is True
    net = MODELS.build(dict(net_config(dict(cfg_path=name, **beside), KEY), neck=None))
    assert net.head.fc.out_features == 5
    assert sum(len(stage) for stage in (net.backbone.layer3, net.backbone.layer4)) == 9


def test_a_distillation_teaches_by_its_student():
    found = net_config(dict(cfg_path=str(CONFIGS / 'cakd/demo_digits.py')), KEY)
    assert (found.type, found.backbone.depth) == ('ImageClassifier', 8)
    assert found.data_preprocessor.mean == [77.8] * 3


def test_student_and_extracted_config():
    cfg = Config.fromfile(CONFIGS / 'cakd/demo_digits.py')
    cfg.model.architecture = dict(
        cfg_path='cakd_mm::vanilla/resnet8_digits.py', backbone=dict(depth=14)
    )
    assert student_model(cfg).backbone == dict(type='CIFARResNet', depth=14)
    plain = plain_config(cfg)
    assert plain.model.backbone.depth == 14
    assert '_scope_' not in plain.model and 'data_preprocessor' not in plain.model
    cfg.data_preprocessor = None
    assert plain_config(cfg).data_preprocessor.mean == [77.8] * 3  # of the file


def test_published_weights():
    found = net_config(dict(cfg_path=R18, pretrained=True), KEY)
    url = found.init_cfg.checkpoint
    assert found.init_cfg.type == 'Pretrained'
    assert url.startswith('https://') and 'resnet18' in url
    cfg = Config(dict(model=dict(architecture=dict(cfg_path=R18, pretrained=True))))
    assert 'init_cfg' not in student_model(cfg)
    assert 'init_cfg' not in net_config(dict(cfg_path=R18, pretrained=False), KEY)


@pytest.mark.parametrize(
    ('init', 'kept'),
    [
        (dict(type='Pretrained', checkpoint='x'), None),
        (dict(type='Kaiming', layer='Conv2d'), dict(type='Kaiming', layer='Conv2d')),
        (
            [dict(type='Pretrained', checkpoint='x'), dict(type='Constant', val=1)],
            [dict(type='Constant', val=1)],
        ),
    ],
)
def test_an_extracted_student_forgets_what_it_began_with(init, kept):
    """mmpretrain's Swin has a list."""
    net = dict(type='ImageClassifier', init_cfg=init)
    cfg = Config(dict(model=dict(architecture=net)))
    assert student_model(cfg).get('init_cfg') == kept


def test_delete_that_no_base_has_used_up_leaves_the_file_s_net():
    name = 'cakd_mm::vanilla/resnet8_digits.py'
    net = dict(_delete_=True, cfg_path=name, head=dict(num_classes=5))
    found = net_config(net, KEY)
    assert (found.backbone.depth, found.head.num_classes) == (8, 5)
    assert '_delete_' not in found


def test_a_circle_is_named(tmp_path):
    for own, other in (('a', 'b'), ('b', 'a')):
        text = f"model = dict(architecture=dict(cfg_path='{other}.py'))"
        (tmp_path / f'{own}.py').write_text(text)
    start = str(tmp_path / 'a.py')
    with pytest.raises(ValueError, match=r'cfg_path` = .*a\.py -> .*b\.py -> .*a\.py'):
        net_config(dict(cfg_path=start), KEY)


def test_what_cannot_be_merged(tmp_path):
    swin = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
    with pytest.raises(ValueError, match=rf'`{KEY}` = .*init_cfg.*_delete_=True'):
        net_config(dict(cfg_path=swin, init_cfg=dict(type='Kaiming')), KEY)
    (tmp_path / 'net.py').write_text("model = dict(type='X', neck=None)")
    neck = dict(type='GlobalAveragePooling')
    net = dict(cfg_path=str(tmp_path / 'net.py'), neck=neck)
    with pytest.raises(ValueError, match=rf'`{KEY}` = .*neck.*_delete_=True'):
        net_config(net, KEY)
    net['neck'] = dict(neck, _delete_=True)
    assert net_config(net, KEY).neck == neck


def test_a_file_that_is_no_config(tmp_path):
    (tmp_path / 'net.txt').write_text('model = dict()')
    with pytest.raises(ValueError, match=r'cfg_path` = .*net\.txt.*read as a config'):
        net_config(dict(cfg_path=str(tmp_path / 'net.txt')), KEY)


@pytest.mark.parametrize(
    ('net', 'error', 'problem'),
    [
        (dict(cfg_path='nothing.py'), FileNotFoundError, 'No such file'),
        (dict(cfg_path='mmpretrain::x/nothing.py'), FileNotFoundError, 'nothing.py'),
        (
            dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1kk.py'),
            FileNotFoundError,
            "Like it: 'mmpretrain::resnet/resnet18_8xb32_in1k.py'",
        ),
        (
            dict(cfg_path='cakd_mm::cakd/demo_digit.py'),
            FileNotFoundError,
            "Like it: 'cakd_mm::cakd/demo_digits.py'",
        ),
        (dict(cfg_path='no_package::x/y.py'), FileNotFoundError, 'no_package config'),
        (dict(cfg_path=R18, type='X'), ValueError, "type='X'.*_delete_=True"),
        (
            dict(cfg_path='{configs}/_base_/default_runtime.py'),
            ValueError,
            'describes no model',
        ),
        (
            dict(cfg_path='{configs}/vanilla/resnet8_digits.py', pretrained=True),
            ValueError,
            'names no weights.*student_ckpt',
        ),
    ],
)
def test_errors_name_the_key(net, error, problem):
    net = {
        k: v.format(configs=CONFIGS) if k == 'cfg_path' else v for k, v in net.items()
    }
    with pytest.raises(error, match=rf'`model\.teacher\.cfg_path` = .*{problem}'):
        net_config(net, KEY)


@pytest.mark.parametrize('name', ['broken.py', 'leaf.py'])
def test_an_error_of_syntax_names_the_file(name, tmp_path, monkeypatch):
    """Other ranks are told no more than its text."""
    (tmp_path / 'broken.py').write_text('x = 1\ny = (')
    (tmp_path / 'leaf.py').write_text("_base_ = 'broken.py'")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"`config` = '{name}'.*no Python") as caught:
        read_named(name, 'config')
    assert "was never closed. Correct line 2, 'y = ('." in str(caught.value)


def test_read_named(tmp_path, monkeypatch):
    (tmp_path / 'own.py').write_text('x = 1')
    monkeypatch.chdir(tmp_path)
    assert read_named('own.py', 'config').x == 1
    assert read_named('cakd_mm::vanilla/resnet8_digits.py', 'c').model.type


def test_custom_imports_that_fail(tmp_path):
    file = tmp_path / 'own.py'
    imports = "imports=['nowhere_at_all'], allow_failed_imports=False"
    file.write_text(f'custom_imports = dict({imports})')
    with pytest.raises(ImportError) as caught:
        read_named(str(file), 'config')
    text = "custom_imports cannot be imported: No module named 'nowhere_at_all'."
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ('net', 'scope'),
    [
        (dict(type='mmpretrain.ImageClassifier'), 'mmpretrain'),
        (dict(type='mmpretrain.models.classifiers.ImageClassifier'), 'mmpretrain'),
        (dict(type='mmpretrain.ImageClassifier', _scope_='mmrazor'), 'mmrazor'),
        (dict(type='ImageClassifier'), None),
        (dict(type='cakd_mm.models.Own'), None),
    ],
)
def test_a_type_of_a_project_is_built_with_its_parts(net, scope):
    assert net_config(net, 'model.teacher').get('_scope_') == scope


def test_an_argument_pretrained_of_mmseg_reaches_the_net():
    pytest.importorskip('mmseg')
    net = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    for value in (None, 'other.pth'):
        found = net_config(dict(cfg_path=net, pretrained=value), KEY)
        assert found.pretrained == value
    whole = net_config(dict(cfg_path=net, pretrained=False), KEY)
    assert whole.pretrained == 'open-mmlab://resnet18_v1c'
