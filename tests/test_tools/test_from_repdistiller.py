"""``tools/model_converters/from_repdistiller.py`` on files as the originals write."""

import argparse
import pickle

import numpy as np
import pytest
import torch
from bomb import Bomb
from mmengine.config import Config
from mmpretrain import get_model
from reference_nets import GIVEN, filled, forward, their_name
from tiny import CONFIGS, build
from tools_inside import run_tool

from cakd_mm.utils.repdistiller_weights import ARCHS

TOOL = 'model_converters/from_repdistiller.py'


def reference(arch, classes=100, seed=0):
    """A reference's state dict, filled by name."""
    net = ARCHS[arch]
    model = build(
        dict(
            type='ImageClassifier',
            backbone=net.backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=classes, in_channels=net.width),
        )
    )
    shapes = {their_name(arch, k): v.shape for k, v in model.state_dict().items()}
    return filled(shapes, seed, 1.3 if arch == 'shufflenetv2' else 1.0)


@pytest.fixture
def convert(monkeypatch, tmp_path):
    """Run the tool in this process on a file's content, or on a file."""

    def run(content, arch, *options, **saving):
        source, out = tmp_path / 'source.pth', tmp_path / 'made' / 'out.pth'
        if content is not None:
            torch.save(content, source, **saving)
        run_tool(monkeypatch, TOOL, source, out, '--arch', arch, *options)
        return out

    return run


def assert_holds(path, weights, arch):
    """The checkpoint has these weights of the reference, and is plain data."""
    saved = torch.load(path, weights_only=True)
    assert saved['meta'] == dict(arch=arch, source='repdistiller')
    found = {their_name(arch, name): v for name, v in saved['state_dict'].items()}
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def options(**more):
    """RepDistiller's parsed options, as train_teacher.py and train_student.py make."""
    return argparse.Namespace(
        model='resnet8x4',
        learning_rate=0.05,
        lr_decay_epochs=[150, 180, 210],
        model_path='./save/models',
        cosine=False,
        gamma=None,
        **more,
    )


def optimizer(rate=0.05):
    """The state of an optimizer after a step, with ``rate`` in its group."""
    layer = torch.nn.Linear(2, 2)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    sgd.step()
    state = sgd.state_dict()
    state['param_groups'][0]['lr'] = rate
    return state


def prefixed(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


STUDENT = 'resnet8'
TEACHER = 'wrn16-1'


def distiller(prefix='module.'):
    return {
        **prefixed(f'{prefix}student.', reference(STUDENT, 10)),
        **prefixed(f'{prefix}teacher.', reference(TEACHER, 10)),
        f'{prefix}connectors.0.0.weight': torch.zeros(3, 3, 1, 1),
    }


PLAIN = {
    'bare': lambda net: net,
    'student of RepDistiller': lambda net: dict(
        epoch=240, model=prefixed('module.', net), best_acc=torch.tensor(69.1)
    ),
    'state_dict': lambda net: dict(state_dict=net, epoch=3),
    'distiller': lambda net: dict(
        epoch=240,
        model=distiller(),
        optimizer=optimizer(),
        best_acc=torch.tensor(72.5),
    ),
}
WITH_OBJECTS = {
    'options of a trial': lambda net: dict(
        opt=options(trial='1', print_freq=100, temperature=np.float32(4)), model=net
    ),
    'latest of mdistiller': lambda net: dict(
        epoch=240,
        model=distiller(),
        optimizer=optimizer(np.float64(5e-4)),
        best_acc=np.float64(72.51),
    ),
    'numbers of numpy': lambda net: dict(
        epoch=np.int64(3), model=net, best_acc=np.float32(0.5), done=np.bool_(True)
    ),
}


@pytest.mark.parametrize('kind', [*PLAIN, *WITH_OBJECTS])
def test_files_as_the_originals_write_them(convert, capsys, kind):
    net = reference(STUDENT, 10)
    content = {**PLAIN, **WITH_OBJECTS}[kind](net)
    zipped = kind != 'student of RepDistiller'  # older torch writes no archive
    saving = dict(_use_new_zipfile_serialization=zipped)
    path = convert(content, STUDENT, **saving)
    assert_holds(path, net, STUDENT)
    assert capsys.readouterr().out == f'wrote {path}\n'


@pytest.mark.parametrize('core', [b'numpy.core', b'numpy._core'])
def test_numbers_as_numpy_1_and_2_spell_them(convert, tmp_path, core):
    net = reference(STUDENT, 10)
    content = dict(opt=options(), model=net, best_acc=np.float64(72.5))
    path = tmp_path / 'source.pth'
    torch.save(content, path, _use_new_zipfile_serialization=False)
    own = np.float64(0).__reduce__()[0].__module__.encode()
    data = path.read_bytes()
    assert data.count(b'c' + own + b'\nscalar\n') == 1
    path.write_bytes(data.replace(b'c' + own, b'c' + core + b'.multiarray'))
    assert_holds(convert(None, STUDENT), net, STUDENT)


def test_the_teacher_of_a_distiller(convert):
    path = convert(dict(model=distiller()), TEACHER, '--part', 'teacher')
    assert_holds(path, reference(TEACHER, 10), TEACHER)


# --- Files that are refused --------------------------------------------------


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('place', ['beside', 'in options', 'among weights'])
def test_no_code_of_the_file_is_run(convert, tmp_path, place, zipped):
    marker = tmp_path / 'executed'
    bomb = Bomb(marker)
    net = reference(STUDENT, 10)
    if place == 'among weights':
        content = dict(model={**net, 'bn1.extra': bomb})
    else:
        content = dict(model=net, opt=options(x=bomb) if 'opt' in place else bomb)
    match = r"`source` = '.*cannot be read as .*holds `io\.open`, .*run code.* Give a"
    with pytest.raises(ValueError, match=match) as caught:
        convert(content, STUDENT, _use_new_zipfile_serialization=zipped)
    assert 'weights_only' not in str(caught.value)  # no advice to load it all the same
    assert not marker.exists()
    assert not (tmp_path / 'made').exists()
    torch.load(tmp_path / 'source.pth', weights_only=False)
    assert marker.exists()  # the file does what it is to be feared for


@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        (b'no checkpoint', 'cannot be read as a checkpoint'),
        (None, 'no such file'),
        ({'model': {'a': 1}}, 'holds no `state_dict` or `model`'),
        ([torch.zeros(1)], 'holds no `state_dict` or `model`'),
    ],
)
def test_a_file_that_is_missing_or_holds_no_weights_is_named(
    convert, tmp_path, content, problem
):
    path = tmp_path / 'source.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
        content = None
    kind = FileNotFoundError if problem == 'no such file' else ValueError
    with pytest.raises(kind, match=f"`source` = '{path}'.*{problem}.*train_student.py"):
        convert(content, STUDENT)


def test_another_number_of_classes_is_refused_with_both(convert, tmp_path):
    net = dict(model=reference(STUDENT, 100))
    with pytest.raises(ValueError, match='100 classes, the config asks for 200'):
        convert(net, STUDENT, '--num-classes', 200)
    assert not (tmp_path / 'made').exists()
    path = convert(net, STUDENT, '--num-classes', 100)
    assert torch.load(path)['state_dict']['head.fc.bias'].shape == (100,)


# --- Read by mmpretrain ------------------------------------------------------

CONFIG_OF = {
    **{arch: f'vanilla/{arch}_cifar100.py' for arch in GIVEN.values()},
    'mobilenetv1': 'vanilla/mobilenetv1_in1k.py',
}


@pytest.mark.parametrize('arch', CONFIG_OF)
@torch.no_grad()
def test_mmpretrain_reads_the_checkpoint_and_scores_as_the_reference(convert, arch):
    classes, size = (1000, 64) if arch == 'mobilenetv1' else (100, 32)
    weights = reference(arch, classes)
    path = convert(dict(model=prefixed('module.', weights)), arch)
    config = Config.fromfile(CONFIGS / CONFIG_OF[arch])
    model = get_model(config, pretrained=str(path), device='cpu')
    torch.manual_seed(0)
    images = torch.randn(2, 3, size, size)
    wanted = forward(arch, weights, images)['logits']
    found = model.eval()(images, mode='tensor')
    assert found.shape == (2, classes)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_no_code_of_a_plain_pickle_is_run(convert, tmp_path):
    marker = tmp_path / 'executed'
    (tmp_path / 'source.pth').write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ValueError, match='cannot be read as a checkpoint'):
        convert(None, STUDENT)
    assert not marker.exists()
