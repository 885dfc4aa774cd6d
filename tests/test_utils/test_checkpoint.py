import json
import sys

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from tiny import image_classifier

from cakd_mm.utils.checkpoint import (
    fingerprint,
    load_strictly,
    logged_scores,
    model_weights,
    own_scores,
    read_checkpoint,
    read_foreign_weights,
)


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        'conv.weight': torch.randn(4, 3, generator=generator),
        'bn.num_batches_tracked': torch.tensor(7),
        'bn.half': torch.randn(2, generator=generator).half(),
    }


class TestFingerprint:
    def test_is_the_same_for_the_same_weights_in_any_order(self):
        first = weights()
        second = dict(reversed(list(weights().items())))
        assert fingerprint(first).tolist() == fingerprint(second).tolist()
        assert fingerprint(first).shape == (32,)

    def test_sees_every_change(self):
        """Of name, type, shape and value, down to the sign of a zero."""
        weight = torch.zeros(4, 3)
        changed = [
            {'conv.weight': weight},
            {'conv.w': weight},
            {'conv.weight': weight.int()},
            {'conv.weight': weight.reshape(3, 4)},
            {'conv.weight': -weight},
        ]
        found = {tuple(fingerprint(weights).tolist()) for weights in changed}
        assert len(found) == len(changed)


@pytest.mark.parametrize('wrap', [False, True])
@pytest.mark.parametrize('prefix', ['', 'module.', 'architecture.'])
def test_model_weights_unwraps(wrap, prefix):
    state = {prefix + k: v for k, v in weights().items()}
    if prefix == 'architecture.':
        state['distiller.x'] = torch.zeros(1)
        state['teacher.conv.weight'] = torch.ones(1)
    found = model_weights({'state_dict': state} if wrap else state)
    assert found.keys() == weights().keys()
    assert torch.equal(found['conv.weight'], weights()['conv.weight'])


@pytest.mark.parametrize(
    'content', [{'state_dict': {}}, {'meta': {'epoch': 3}}, [1, 2, 3], {}]
)
def test_a_file_without_weights_is_refused(tmp_path, content):
    path = tmp_path / 'file.pth'
    torch.save(content, path)
    with pytest.raises(ValueError, match=r'`some\.key`.*no `state_dict`.*Do this\.'):
        read_checkpoint(str(path), 'some.key', 'Do this.')


def test_a_remote_path_is_left_to_mmengine(monkeypatch):
    from cakd_mm.utils import checkpoint

    asked = []

    def load(path, map_location):
        asked.append((path, map_location))
        return {'state_dict': weights()}

    monkeypatch.setattr(checkpoint.CheckpointLoader, 'load_checkpoint', load)
    read_checkpoint('https://example.org/net.pth', 'key', 'remedy')
    assert asked == [('https://example.org/net.pth', 'cpu')]


def test_a_foreign_file_holds_nothing_but_tensors_among_its_weights(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save({'model': {**weights(), 'fc.bias': [0.0, 1.0]}}, path)
    with pytest.raises(
        ValueError, match="`key`.*'fc.bias' among the weights is a list"
    ):
        read_foreign_weights(str(path), 'key', 'Remedy.')
    torch.save({'model': weights()}, path)
    assert read_foreign_weights(str(path), 'key', 'Remedy.').keys() == weights().keys()


def buffer(*values):
    return HistoryBuffer(list(values), [1] * len(values))


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ({}, {}),
        (
            dict(message_hub=dict(log_scalars={'val/accuracy/top1': buffer(1.0, 2.0)})),
            {'accuracy/top1': 2.0},
        ),
        # What other code may have written there is no score, and no error.
        (dict(message_hub=dict(log_scalars={'val/accuracy/top1': buffer()})), {}),
        (dict(message_hub=dict(log_scalars={'val/accuracy/top1': 97.0})), {}),
    ],
)
def test_the_last_scores_of_a_run(content, expected):
    assert logged_scores(content) == expected


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        (dict(scores={'accuracy/top1': 97}), {'accuracy/top1': 97.0}),
        ('resnet', {}),
        (dict(scores=[1, 2]), {}),
        (dict(scores=dict(top1='97%', top5=99)), {'top5': 99.0}),
    ],
)
def test_the_scores_of_a_students_own_weights(meta, expected):
    assert own_scores(dict(meta=meta)) == expected


@pytest.mark.parametrize('path', ['~nobody_/net.pth', 'x' * 5000, 'a\0b', '/dev/null'])
def test_text_that_can_be_no_file(path):
    with pytest.raises(FileNotFoundError, match='`key` = .*There is no such file'):
        read_checkpoint(path, 'key', '')


class TestSafetensors:
    @pytest.mark.parametrize(
        ('content', 'problem'),
        [
            ((10**9).to_bytes(8, 'little') + b'{}', 'header too large'),
            ((2).to_bytes(8, 'little') + b'{}' + b'more', 'cannot be read'),
            ((2).to_bytes(8, 'little') + b'{}', 'holds no'),
            (
                (61).to_bytes(8, 'little')
                + b'{"a":{"dtype":"F32","shape":[999999],"data_offsets":[0,4]}}  '
                + bytes(4),
                'invalid shape',
            ),
        ],
    )
    def test_a_header_that_lies(self, tmp_path, content, problem):
        pytest.importorskip('safetensors')
        file = tmp_path / 'model.safetensors'
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf'`key` = .*{problem}.* Do this\.'):
            read_checkpoint(str(file), 'key', 'Do this.')

    def test_without_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
        (tmp_path / 'a').write_bytes((2).to_bytes(8, 'little') + b'{}')
        with pytest.raises(ValueError, match='type pip install safetensors'):
            read_checkpoint(str(tmp_path / 'a'), 'key', '')

    def test_for_mmengine(self, tmp_path):
        """An ``init_cfg`` of type Pretrained names one."""
        safetensors = pytest.importorskip('safetensors.torch')
        safetensors.save_file(weights(), tmp_path / 'a.safetensors')
        found = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.safetensors'))
        assert found['bn.num_batches_tracked'].item() == 7
        assert torch.equal(found['conv.weight'], weights()['conv.weight'])


def test_a_list_of_files_names_no_other_folder(tmp_path):
    (tmp_path / 'in').mkdir()
    torch.save({'a': torch.ones(1)}, tmp_path / 'a.bin')
    index = tmp_path / 'in' / 'pytorch_model.bin.index.json'
    index.write_text(json.dumps({'weight_map': {'a': '../a.bin'}}))
    with pytest.raises(ValueError, match='cannot be read as a checkpoint'):
        read_checkpoint(str(index), 'key', '')
    torch.save({'a': torch.ones(1)}, tmp_path / 'in' / 'a.bin')
    assert read_checkpoint(str(index), 'key', '') == {'a': torch.ones(1)}


class TestLoadStrictly:
    def test_a_net_that_makes_tables_itself(self):
        arch = dict(embed_dims=8, depths=[1] * 4, num_heads=[1] * 4)
        arch['extra_norm_every_n_blocks'] = 0
        backbone = dict(type='SwinTransformerV2', arch=arch, img_size=64, window_size=2)
        net, other = (image_classifier(dict(backbone), 64, 3) for _ in range(2))
        load_strictly(other, net.state_dict(), 'key', 'file', '')
        for name, value in net.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name

    def test_a_net_that_refuses_a_weight(self):
        net = torch.nn.Linear(2, 2)
        own = dict(net.state_dict())
        net._register_load_state_dict_pre_hook(lambda found, *_: found.pop('bias'))
        with pytest.raises(ValueError, match=r"key` = 'file'.* not taken 1 .*\(bias\)"):
            load_strictly(net, own, 'key', 'file', 'Write another.')
