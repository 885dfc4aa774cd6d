"""A student in other formats, from its two files."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from known_nets import spread
from mmengine.config import Config
from mmpretrain import get_model
from tiny import CONFIGS
from tools_inside import run_tool

from cakd_mm.deployment import Wish, command, export, formats, latency
from cakd_mm.deployment.student import Student
from cakd_mm.utils.extract import plain_config

TOOL = 'deployment/export_student.py'
CLASSES = [f'clásse {label}' for label in range(10)]


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch):
    monkeypatch.setattr(latency, 'SECONDS', 0.0)


def config(model, size=16, **preprocessor):
    preprocessor = {'mean': [100.0, 110.0, 120.0], 'std': [50.0, 60.0, 70.0]} | (
        preprocessor
    )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=size),
        dict(type='PackInputs'),
    ]
    loader = dict(dataset=dict(type='CustomDataset', pipeline=pipeline))
    return Config(
        dict(model=model, data_preprocessor=preprocessor, test_dataloader=loader)
    )


def net_of(cfg):
    torch.manual_seed(0)
    net = get_model(cfg)
    net.init_weights()
    spread(net)
    for weight in net.parameters():  # Tables of positions begin as zeros.
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return net.eval()


def save(folder, cfg):
    """Write both files of a student; return its net."""
    net = net_of(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(folder / 'student.py')
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(meta=meta, state_dict=net.state_dict()), folder / 'student.pth')
    return net


def small(backbone, width, classes=10, **head):
    head = dict(type='LinearClsHead', num_classes=classes, in_channels=width) | head
    neck = dict(type='GlobalAveragePooling')
    return dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)


REPVGG = small(
    dict(
        type='RepVGG',
        arch=dict(
            num_blocks=[1, 1, 1, 1],
            width_factor=[0.125, 0.125, 0.125, 0.03125],
            group_layer_map=None,
            se_cfg=None,
            stem_channels=8,
        ),
        out_indices=(3,),
    ),
    16,
)
SWIN = small(
    dict(
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[2], num_heads=[2]),
        img_size=16,
        window_size=2,
        out_indices=(0,),
    ),
    8,
)


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """The student of the demo as extraction describes it, in a folder with a space."""
    folder = tmp_path_factory.mktemp('my files')
    cfg = plain_config(Config.fromfile(CONFIGS / 'cakd/demo_digits.py'))
    cfg.model.backbone.depth = 8
    return folder, save(folder, cfg)


def test_both_formats_from_the_command_line(demo, tmp_path, monkeypatch, capsys):
    folder, net = demo
    out = tmp_path / 'a new folder' / 'net.v2.onnx'
    files = folder / 'student.py', folder / 'student.pth'
    run_tool(monkeypatch, TOOL, *files, '--normalize', '--out', out)
    printed = capsys.readouterr().out
    assert sorted(x.name for x in out.parent.iterdir()) == [
        *('net.v2.json', 'net.v2.onnx', 'net.v2.pt2')
    ]
    images = torch.randint(256, (3, 3, 16, 16)).float()
    with torch.no_grad():
        expected = net((images - 77.8) / 95.7).numpy()
    namespace = dict(images=images.numpy())
    _, snippet = printed.split('In Python; ')
    lines = [line.strip() for line in snippet.splitlines()[1:]]
    assert 'float32 (N, 3, 16, 16), RGB, with values of 0 to 255' in snippet
    exec('\n'.join(lines[:3]), namespace)
    tolerance = dict(rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(namespace['logits'], expected, **tolerance)
    exec('\n'.join(lines[3:]), namespace)
    np.testing.assert_allclose(namespace['logits'].numpy(), expected, **tolerance)
    assert capsys.readouterr().out == f'{CLASSES[expected[0].argmax()]}\n'
    # Each file says alone what one has to know.
    inside = {
        entry.key: json.loads(entry.value) for entry in onnx.load(out).metadata_props
    }
    assert inside['classes'] == CLASSES
    assert inside['shape'] == ['batch', 3, 16, 16]
    extra = {'metadata.json': ''}
    torch.export.load(out.with_suffix('.pt2'), extra_files=extra)
    assert json.loads(extra['metadata.json']) == inside
    beside = json.loads(out.with_suffix('.json').read_text(encoding='utf-8'))
    measured = beside.pop('measured')
    assert {name: beside[name] for name in inside} == inside
    for name in ('onnx', 'pt2'):
        assert measured[name]['bytes'] == out.with_suffix(f'.{name}').stat().st_size
        assert 0 <= measured[name]['difference'] <= 1e-5
        assert f'{measured[name]["milliseconds"]:.2f}' in printed


def run(cfg, monkeypatch, tmp_path, *formats, net=None, **wish):
    """Export a net that is in memory; return the result and a batch's scores."""
    net = net or net_of(cfg)
    student = Student(net, cfg, None, 0)
    monkeypatch.setattr(command, 'read_student', lambda *_: student)
    wish = Wish('x.py', 'x.pth', tmp_path / 'x', formats, **wish)
    return net, export(wish, lambda _: None)


def test_windows_for_any_number_of_images(monkeypatch, tmp_path):
    net, _ = run(config(SWIN), monkeypatch, tmp_path, 'onnx')
    images = torch.randn(4, 3, 16, 16)
    session = onnxruntime.InferenceSession(tmp_path / 'x.onnx')
    (scores,) = session.run(None, dict(images=images.numpy()))
    with torch.no_grad():
        expected = net(images)
    difference = (torch.from_numpy(scores) - expected).abs().max()
    assert difference < 1e-5 * expected.abs().max()
    assert not any('window_reverse' in vars(part) for part in net.modules())


@pytest.mark.parametrize('as_trained', [True, False])
def test_branches_are_merged(monkeypatch, tmp_path, as_trained):
    net, _ = run(
        config(REPVGG, 32), monkeypatch, tmp_path, 'pt2', as_trained=as_trained
    )
    program = torch.export.load(tmp_path / 'x.pt2')
    names = program.state_dict
    assert any('branch_1x1' in name for name in names) == as_trained
    assert any('branch_reparam' in name for name in names) != as_trained
    assert any('branch_1x1' in name for name, _ in net.named_parameters())
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = net(images)
        found = program.module()(images)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


PLAIN = small(dict(type='CIFARResNet', depth=8), 64)


def test_of_a_net_of_bgr_a_file_may_take_rgb(monkeypatch, tmp_path):
    cfg = config(PLAIN, to_rgb=False)
    wish = dict(normalize=True, probabilities=True, batch_size=2)
    net, result = run(cfg, monkeypatch, tmp_path, 'pt2', **wish)
    assert (result['order'], result['mean'], result['std']) == ('RGB', [0.0], [1.0])
    assert (result['output'], result['shape'][0]) == ('probabilities', 2)
    images = torch.randint(256, (2, 3, 16, 16)).float()
    given = dict(inputs=[*images.flip(1).byte()])  # as files are read
    with torch.no_grad():
        inputs = net.data_preprocessor(given)['inputs']
        expected = torch.stack([x.pred_score for x in net(inputs, mode='predict')])
        found = torch.export.load(tmp_path / 'x.pt2').module()(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


class OneByOne(torch.nn.Module):
    """Takes images apart, so that torch writes down how many there were."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.data_preprocessor = net.data_preprocessor

    def forward(self, inputs, mode='tensor'):
        if mode == 'predict':
            return self.net(inputs, mode=mode)
        return torch.cat([self.net(image[None]) for image in inputs])


def test_a_number_of_images_that_a_net_keeps(monkeypatch, tmp_path):
    cfg = config(PLAIN)
    net = OneByOne(net_of(cfg))
    for name in ('onnx', 'pt2'):
        text = f'`--format` = .{name}.*cannot export OneByOne.*--batch-size 1'
        with pytest.raises(ValueError, match=text):
            run(cfg, monkeypatch, tmp_path, name, net=net)
    assert not [*tmp_path.iterdir()]
    _, result = run(cfg, monkeypatch, tmp_path, 'pt2', net=net, batch_size=3)
    assert result['shape'][0] == 3
    assert result['measured']['pt2']['difference'] <= 1e-5


def _refuse(*_):
    raise RuntimeError('too small')


class TestRefused:
    def test_a_training_s_checkpoint(self, demo, tmp_path):
        folder, net = demo
        weights = {f'architecture.{k}': v for k, v in net.state_dict().items()}
        torch.save(dict(state_dict=weights), tmp_path / 'epoch_1.pth')
        of_training = str(CONFIGS / 'cakd/demo_digits.py')
        checkpoint = str(tmp_path / 'epoch_1.pth')
        with pytest.raises(ValueError, match=f'extract.* {of_training} {checkpoint},'):
            export(Wish(of_training, checkpoint, None, ['pt2']))
        own = str(folder / 'student.py')
        with pytest.raises(ValueError, match=f'extract.* CONFIG {checkpoint}, where'):
            export(Wish(own, checkpoint, None, ['pt2']))
        plain = str(folder / 'student.pth')
        with pytest.raises(ValueError, match=f'`config` = .{of_training}'):
            export(Wish(of_training, plain, None, ['pt2']))

    def test_other_weights(self, demo, tmp_path):
        folder, net = demo
        torch.save(dict(state_dict=dict(x=torch.ones(1))), tmp_path / 'x.pth')
        with pytest.raises(ValueError, match=r'`checkpoint` = .*x\.pth.*do not fit'):
            export(
                Wish(str(folder / 'student.py'), str(tmp_path / 'x.pth'), None, ['pt2'])
            )

    def test_packages_that_are_missing(self, monkeypatch):
        monkeypatch.setattr(
            'importlib.util.find_spec', lambda x: None if x == 'onnx' else x
        )
        with pytest.raises(ModuleNotFoundError, match='pip install onnx, or leave'):
            export(Wish('x.py', 'x.pth', None, ['onnx']))

    def test_a_size_that_the_net_refuses(self, monkeypatch, tmp_path):
        cfg = config(PLAIN)
        net = net_of(cfg)
        net.backbone.register_forward_pre_hook(_refuse)
        text = r'`--size` = \[4, 4\]: ImageClassifier of CIFARResNet takes no images'
        with pytest.raises(ValueError, match=text):
            run(cfg, monkeypatch, tmp_path, 'pt2', net=net, size=[4])

    def test_an_opset_that_torch_does_not_write(self, monkeypatch):
        info = onnx.helper.make_tensor_value_info('x', 1, [1])
        node = onnx.helper.make_node('Identity', ['x'], ['x'])
        graph = onnx.helper.make_graph([node], 'g', [info], [info])
        opset = [onnx.helper.make_opsetid('', 18)]
        model = onnx.helper.make_model(graph, opset_imports=opset)
        monkeypatch.setattr(formats, 'as_onnx', lambda *_, **__: model)
        given = torch.nn.Identity(), torch.ones(1), True, 'logits'
        with pytest.raises(ValueError, match='`--opset` = 5: .* opset 18.'):
            formats.FORMATS['onnx'].content(formats.Source(*given, opset=5), {})
        content = formats.FORMATS['onnx'].content(
            formats.Source(*given, opset=18), dict(classes=['é'])
        )
        (entry,) = onnx.load_from_string(content).metadata_props
        assert (entry.key, entry.value) == ('classes', '["é"]')


def test_a_failing_write_leaves_what_was_there(demo, tmp_path, monkeypatch):
    folder, _ = demo
    (tmp_path / 'x.pt2').write_bytes(b'before')

    def differs(*_):
        return float('nan')

    monkeypatch.setattr(command, 'largest_difference', differs)
    files = str(folder / 'student.py'), str(folder / 'student.pth')
    with pytest.raises(ValueError, match='Nothing is written'):
        export(Wish(*files, tmp_path / 'x', ['pt2']))
    assert (tmp_path / 'x.pt2').read_bytes() == b'before'
    assert len([*tmp_path.iterdir()]) == 1
