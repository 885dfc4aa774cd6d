import pytest
import torch
from mmengine.logging import HistoryBuffer

from cakd_mm.utils.checkpoint import (
    fingerprint,
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
