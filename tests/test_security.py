"""No file from outside runs code, wherever it comes in, and no name runs pip."""

import argparse
import importlib
import io
import pickle
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import mmengine
import mmpretrain
import numpy as np
import pytest
import torch
from bomb import Bomb
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.datasets import CIFAR100
from tiny import CONFIGS, save_teacher
from tiny_runs import feature_config, steps, write_log
from tools_inside import run_tool

from cakd_mm import compat
from cakd_mm.utils.checkpoint import read_checkpoint
from cakd_mm.utils.data_pickle import load_data_only, loads
from cakd_mm.utils.net_config import net_config, read_named

DEMO = CONFIGS / 'cakd/demo_digits.py'
ALONE = CONFIGS / 'vanilla/resnet20_digits.py'
NAMED = r'holds `io\.open`, which could run code on loading.* CAKD_MM_TRUSTED'


@pytest.fixture
def marker(tmp_path):
    """What a file makes that runs its code; no test may end with it there."""
    yield tmp_path / 'executed'
    assert not (tmp_path / 'executed').exists()


@pytest.fixture
def poison(marker):
    """Write a checkpoint again, with a bomb in it, and return the path."""

    def write(path, source=None, **options):
        content = dict(meta={}, state_dict={'w': torch.zeros(1)})
        if source is not None:
            content = torch.load(source, map_location='cpu', weights_only=False)
        torch.save(dict(content, extra=Bomb(marker)), path, **options)
        return path

    return write


def explodes(path, marker):
    """Return whether the file does what it is to be feared for, and clean up."""
    torch.load(path, weights_only=False)
    found = marker.exists()
    marker.unlink(missing_ok=True)
    return found


# --- Every way in ------------------------------------------------------------


@pytest.fixture(scope='module')
def genuine(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp('genuine') / 'teacher.pth')


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """Run a tool on few images, in a work dir of its own."""
    monkeypatch.setenv('LOCAL_RANK', '0')

    def run(name, *words, options=()):
        small = [f'{part}_dataloader.dataset.indices=64' for part in ('train', 'val')]
        arguments = [*words, '--work-dir', tmp_path / 'run']
        run_tool(monkeypatch, name, *arguments, '--cfg-options', *small, *options)

    return run


def teacher(tool, path, genuine, tmp_path):
    tool('train.py', DEMO, options=[f'model.teacher_ckpt={path}'])


def student(tool, path, genuine, tmp_path):
    options = [f'model.teacher_ckpt={genuine}', f'model.student_ckpt={path}']
    tool('train.py', DEMO, options=options)


def load_from(tool, path, genuine, tmp_path):
    tool('train.py', ALONE, options=[f'load_from={path}'])


def resume(tool, path, genuine, tmp_path):
    tool('train.py', ALONE, '--resume', path)


def resume_the_newest(tool, path, genuine, tmp_path):
    (tmp_path / 'run').mkdir()
    path.rename(tmp_path / 'run' / 'epoch_1.pth')
    (tmp_path / 'run' / 'last_checkpoint').write_text(
        str(tmp_path / 'run' / 'epoch_1.pth')
    )
    tool('train.py', ALONE, '--resume')


def pretrained(tool, path, genuine, tmp_path):
    options = ['model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={path}']
    tool('train.py', ALONE, options=options)


def pretrained_part(tool, path, genuine, tmp_path):
    options = [f'model.teacher_ckpt={genuine}']
    for name, value in dict(type='Pretrained', checkpoint=path, prefix='w').items():
        options.append(f'model.architecture.backbone.init_cfg.{name}={value}')
    tool('train.py', DEMO, options=options)


def score(tool, path, genuine, tmp_path):
    tool('test.py', ALONE, path)


TRAINING = {
    'model.teacher_ckpt': teacher,
    'model.student_ckpt': student,
    'load_from': load_from,
    '--resume': resume,
    '--resume auto': resume_the_newest,
    'checkpoint': pretrained,
    'checkpoint of a part': pretrained_part,
    'checkpoint of test.py': score,
}


@pytest.mark.parametrize('entry', TRAINING)
def test_a_poisoned_checkpoint(entry, tool, poison, genuine, marker, tmp_path):
    path = poison(tmp_path / 'poisoned.pth', genuine)
    assert explodes(path, marker)
    name = 'epoch_1' if 'auto' in entry else 'poisoned'
    key = entry.split(' ')[0]
    with pytest.raises(ValueError, match=rf'(?s)`{key}` = .*{name}\.pth.*{NAMED}'):
        TRAINING[entry](tool, path, genuine, tmp_path)


def extract(path, monkeypatch, folder):
    run_tool(monkeypatch, 'model_converters/extract_student.py', DEMO, path)


def plot(path, monkeypatch, folder):
    write_log(folder / 'run', steps([1.0, 1.0]), config=feature_config(folder))
    words = (folder / 'run', '--checkpoint', path)
    run_tool(monkeypatch, 'analysis_tools/plot_cakd.py', *words)


def convert(path, monkeypatch, folder):
    words = (folder / 'out.pth', '--arch', 'resnet20')
    run_tool(monkeypatch, 'model_converters/from_repdistiller.py', path, *words)


def measure(path, monkeypatch, folder):
    run_tool(monkeypatch, 'analysis_tools/measure_scorers.py', ALONE, path)


def by_mmpretrain(path, monkeypatch, folder):
    mmpretrain.get_model(Config.fromfile(ALONE), pretrained=str(path))


def by_mmengine(path, monkeypatch, folder):
    load_checkpoint(torch.nn.Linear(1, 1), str(path))


def of_a_retriever(path, monkeypatch, folder):
    importlib.import_module('mmpretrain.models.retrievers.image2image').torch.load(path)


def of_a_bucket(path, monkeypatch, folder):
    backend = argparse.Namespace(get=lambda _: path.read_bytes())
    place = 'mmengine.runner.checkpoint.get_file_backend'
    monkeypatch.setattr(place, lambda *_, **__: backend)
    CheckpointLoader.load_checkpoint('s3://bucket/net.pth', 'cpu')


def downloaded(url):
    """Return what loads a URL whose file has been downloaded before."""

    def load(path, monkeypatch, folder):
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(folder))
        name = 'resnet18-f37072fd.pth' if 'torchvision' in url else 'net.pth'
        (folder / 'checkpoints').mkdir()
        path.rename(folder / 'checkpoints' / name)
        read_checkpoint(url, 'model.teacher_ckpt', '')

    return load


OTHERS = {
    'extract_student.py': extract,
    'plot_cakd.py': plot,
    'from_repdistiller.py': convert,
    'measure_scorers.py': measure,
    'get_model': by_mmpretrain,
    'load_checkpoint': by_mmengine,
    'a retriever': of_a_retriever,
    's3': of_a_bucket,
    'https': downloaded('https://example.org/path/net.pth?version=1'),
    'torchvision': downloaded('torchvision://resnet18'),
}


@pytest.mark.parametrize('entry', OTHERS)
def test_a_poisoned_file_elsewhere(entry, poison, genuine, monkeypatch, tmp_path):
    path = poison(tmp_path / 'poisoned.pth', genuine)
    named = NAMED.removesuffix('.* CAKD_MM_TRUSTED') if entry == 's3' else NAMED
    with pytest.raises(ValueError, match=f'(?s)` = .*{named}'):
        OTHERS[entry](path, monkeypatch, tmp_path)


# --- Every kind of file ------------------------------------------------------


def member(path, name, content):
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr(name, content)


class Calls:
    """Is written as a call of a function with arguments, and then a state."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments, state)

    def __reduce__(self):
        return self.parts


def loose(name):
    """Return a function that a pickle writes as ``name``, whatever it is."""
    module, _, short = name.rpartition('.')
    found = getattr(importlib.import_module(module), short)
    assert callable(found)
    return found


REFUSED = {
    'posix.system': lambda m: Calls(loose('os.system'), f'touch {m}'),
    'builtins.exec': lambda m: Calls(exec, f"open({str(m)!r}, 'w')"),
    'builtins.eval': lambda m: Calls(eval, f"open({str(m)!r}, 'w')"),
    'posix.open': lambda m: Calls(loose('os.open'), str(m), 64),
    'subprocess.Popen': lambda m: Calls(subprocess.Popen, ['touch', str(m)]),
    'functools.partial': lambda m: Calls(loose('functools.partial'), open, str(m)),
    'builtins.__import__': lambda m: Calls(__import__, 'antigravity'),
    'torch.hub.load': lambda m: Calls(torch.hub.load, str(m.parent), 'x'),
    'torch.jit._serialization.load': lambda m: Calls(torch.jit.load, str(m)),
    'torch.serialization.load': lambda m: Calls(torch.load, str(m)),
    'pathlib.PosixPath': lambda m: Path(m),
    # Attributes are for the methods of histories alone.
    'collections.OrderedDict.clear': lambda m: Calls(getattr, OrderedDict, 'clear'),
    'mmengine.logging.history_buffer.HistoryBuffer.__init__': lambda m: Calls(
        getattr, HistoryBuffer, '__init__'
    ),
}


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('name', REFUSED)
def test_what_is_not_data_is_refused_by_name(name, zipped, protocol, marker):
    file = io.BytesIO()
    options = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    torch.save(dict(state_dict={}, extra=REFUSED[name](marker)), file, **options)
    file.seek(0)
    with pytest.raises(pickle.UnpicklingError, match=f'holds `{name}`, which could'):
        load_data_only(file)


@pytest.mark.parametrize(
    ('target', 'state'),
    [
        (HistoryBuffer, (None, {'mean': 1})),
        (argparse.Namespace, (None, {'dump_patches': True})),
        (torch._utils._rebuild_tensor_v2, (None, {'__defaults__': ()})),
        (np.dtype('f8'), (3, '<', None, None, None, 800, 1, 63)),
        (np.dtype('f8'), (3, '>', None, None, None, -1, -1, 0)),
    ],
)
def test_classes_functions_and_dtypes_stay_as_they_are(target, state):
    head = pickle.dumps(target, protocol=2)
    head = head[: head.index(b'(K\x03')] if isinstance(target, np.dtype) else head[:-1]
    tail = pickle.dumps(state, protocol=2)[2:-1]
    with pytest.raises(pickle.UnpicklingError, match='it changes `'):
        loads(head + tail + pickle.BUILD + pickle.STOP)
    assert np.dtype('f8').itemsize == 8


def test_numbers_are_not_taken_for_objects():
    """Numpy would, if its class was called, and the process would crash, or worse."""
    made = Calls(np.ndarray, (1,), np.dtype('O'), b'ABCDEFGH')
    with pytest.raises(TypeError, match='not callable'):
        loads(pickle.dumps(made, 3))
    with pytest.raises(pickle.UnpicklingError, match='its number 1'):
        loads(pickle.EXT1 + b'\1' + pickle.STOP)


def test_the_text_of_a_config_is_not_run_on_resuming(tool, trained, marker, tmp_path):
    """MMCV's runner wrote it, and mmengine's runs it."""
    content = torch.load(trained / 'epoch_1.pth', weights_only=False)
    content['meta']['config'] = f'a = open({str(marker)!r}, "w")'
    torch.save(content, tmp_path / 'net.pth')
    tool('train.py', next(trained.glob('*.py')), '--resume', tmp_path / 'net.pth')


def test_a_legacy_file_refers_to_no_source_code(tmp_path, monkeypatch):
    """Torch would write a patch into the current folder, under any name."""
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    torch.save(dict(w=torch.zeros(1)), file, _use_new_zipfile_serialization=False)
    content = file.getvalue().replace(
        b'X\x07\x00\x00\x00storage', b'X\x06\x00\x00\x00module'
    )
    with pytest.raises(pickle.UnpicklingError, match="refers to a 'module'"):
        load_data_only(io.BytesIO(content))
    assert not list(tmp_path.iterdir())


def test_a_program_of_torchscript_is_refused(tmp_path):
    path = tmp_path / 'net.pth'
    with torch.no_grad():
        torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)).save(str(path))
    with pytest.raises(ValueError, match=r'`key` = .*TorchScript.* CAKD_MM_TRUSTED'):
        read_checkpoint(str(path), 'key', '')


def test_a_tar_archive_is_refused(tmp_path, marker):
    path = tmp_path / 'net.pth'
    with tarfile.open(path, 'w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            content = pickle.dumps(Bomb(marker))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(ValueError, match='`key` = .*tar archive'):
        read_checkpoint(str(path), 'key', '')


@pytest.mark.parametrize('name', ['{stem}/data.pkl', '{stem}/more.pkl', 'data.pkl'])
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_second_pickle_in_the_archive(name, tmp_path, marker, genuine):
    path = tmp_path / 'teacher.pth'
    path.write_bytes(genuine.read_bytes())
    member(path, name.format(stem='teacher'), pickle.dumps(Bomb(marker), protocol=2))
    with suppress(ValueError):
        read_checkpoint(str(path), 'key', '')


def test_what_forces_torch_to_unpickle_opens_nothing(poison, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    path = poison(tmp_path / 'poisoned.pth')
    with pytest.raises(ValueError, match=NAMED):
        load_checkpoint(torch.nn.Linear(1, 1), str(path))


# --- What is genuine ---------------------------------------------------------


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, HistoryBuffer):
        assert found.max_length == expected.max_length
        for pair in zip(found.data, expected.data, strict=True):
            np.testing.assert_array_equal(*pair, strict=True)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, strict=True)
    else:
        assert found == expected or found != found


CONTENT = dict(
    tensors=[torch.arange(6.0).view(2, 3).T, torch.tensor(7), torch.ones(2).bfloat16()],
    parameter=torch.nn.Parameter(torch.ones(2)),
    arrays=[np.arange(4.0), np.eye(2, dtype='f4')[:, :1], np.array(['a', 'bc'])],
    numbers=[np.float64(0.1), np.float32(0.1), np.int64(3), np.bool_(True)],
    plain=[None, True, 2**70, -0.1, 'é', b'\xff', bytearray(b'x'), {1}, frozenset('a')],
    options=argparse.Namespace(lr=0.1),
    torch=[torch.Size([2]), torch.device('cpu'), torch.float16, slice(1, None), 1j],
    history=HistoryBuffer([1.0, 2.0], [1, 1], max_length=10),
    ordered=OrderedDict(a=1),
)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('way', ['zip', 'legacy', 'pickle'])
def test_data_are_read_as_they_were_written(way, protocol):
    if way == 'pickle':
        assert_same(loads(pickle.dumps(CONTENT, protocol)), CONTENT)
        return
    file = io.BytesIO()
    zipped = way == 'zip'
    options = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    torch.save(CONTENT, file, **options)
    file.seek(0)
    assert_same(load_data_only(file), CONTENT)


@pytest.mark.parametrize('forced', ['', '1'])
def test_a_checkpoint_of_a_run_is_read_whole(trained, forced, monkeypatch):
    path = trained / 'epoch_2.pth'
    expected = torch.load(path, map_location='cpu', weights_only=False)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', forced)
    for found in (
        read_checkpoint(str(path), 'key', ''),
        CheckpointLoader.load_checkpoint(str(path), 'cpu'),
    ):
        assert_same(found, expected)
    assert found['message_hub']['log_scalars']['train/loss'].mean() > 0


def test_arrays_of_numpy_1_and_numpy_2_are_read():
    content = pickle.dumps([np.arange(3), np.float64(0.1)], protocol=2)
    for new in (b'numpy.core.multiarray', b'numpy._core.multiarray'):
        for old in (b'numpy.core.multiarray', b'numpy._core.multiarray'):
            assert_same(
                loads(content.replace(old, new)), [np.arange(3), np.float64(0.1)]
            )


# --- The switch --------------------------------------------------------------


def test_a_trusted_file_is_read_in_full(poison, tmp_path, monkeypatch, caplog):
    """That very file, however it is written, and no other."""
    (tmp_path / 'in').mkdir()
    marker = tmp_path / 'executed'
    trusted, other = (poison(tmp_path / f'in/{x}.pth') for x in ('trusted', 'other'))
    (tmp_path / 'link.pth').symlink_to(trusted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CAKD_MM_TRUSTED', '~nobody_/x:in/../link.pth')
    for load in (
        lambda: read_checkpoint(str(trusted), 'key', ''),
        lambda: CheckpointLoader.load_checkpoint('in/trusted.pth', 'cpu'),
    ):
        assert torch.equal(load()['state_dict']['w'], torch.zeros(1))
        assert marker.exists()
        marker.unlink()
    for words in ('', 'in', '1', str(trusted)):
        monkeypatch.setenv('CAKD_MM_TRUSTED', words)
        with pytest.raises(ValueError, match=NAMED):
            read_checkpoint(str(other), 'key', '')


# --- Files that are no checkpoints -------------------------------------------


def test_annotations_are_read_as_data(tmp_path, marker):
    def images(annotations):
        mmengine.dump(annotations, tmp_path / 'labels.pkl')
        return BaseDataset(ann_file=str(tmp_path / 'labels.pkl'), serialize_data=False)

    data = [dict(img_path='a.png', gt_label=np.int64(3), box=np.eye(2))]
    found = images(dict(metainfo={}, data_list=data))
    assert found.get_data_info(0)['gt_label'] == 3
    with pytest.raises(ValueError, match=r'`ann_file` = .*labels\.pkl.*`io\.open`'):
        images(dict(metainfo={}, data_list=data, extra=Bomb(marker)))


def test_what_the_tools_dump_is_read_again(tmp_path):
    content = [dict(pred_score=torch.rand(3), pred_label=torch.tensor([1]))]
    mmengine.dump(content, tmp_path / 'out.pkl')
    assert_same(mmengine.load(tmp_path / 'out.pkl'), content)


def test_cifar_is_read_as_data(tmp_path, marker, monkeypatch):
    monkeypatch.setattr(CIFAR100, '_check_integrity', lambda self: True)
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    content = dict(data=np.ones((2, 3072), np.uint8), fine_labels=[4, 5])
    (folder / 'train').write_bytes(pickle.dumps(content))
    (folder / 'meta').write_bytes(pickle.dumps(dict(fine_label_names=['a'])))
    monkeypatch.setattr(CIFAR100, '_load_meta', lambda self: None, raising=False)
    assert CIFAR100(str(tmp_path), split='train').get_gt_labels().tolist() == [4, 5]
    (folder / 'train').write_bytes(pickle.dumps(dict(content, x=Bomb(marker))))
    with pytest.raises(pickle.UnpicklingError, match=r'`io\.open`'):
        CIFAR100(str(tmp_path), split='train')


def test_a_config_in_yaml_is_read_as_data(tmp_path, marker):
    path = tmp_path / 'config.yaml'
    path.write_text('a: !!python/tuple [1, 2]\n')
    assert Config.fromfile(path).a == (1, 2)
    path.write_text(f"a: !!python/object/apply:io.open ['{marker}', 'w']\n")
    with pytest.raises(Exception, match='could not determine a constructor'):
        Config.fromfile(path)


# --- No name runs pip --------------------------------------------------------


@pytest.fixture
def no_process(monkeypatch):
    started = []

    def start(*words, **_):
        started.append(words)
        raise AssertionError(words)

    for name in ('Popen', 'run', 'call', 'check_call', 'check_output'):
        monkeypatch.setattr(subprocess, name, start)
    yield
    assert not started


def base(name, key, folder):
    (folder / 'leaf.py').write_text(f'_base_ = {name!r}')
    Config.fromfile(folder / 'leaf.py')


NAMES = {
    'config': lambda name, *_: read_named(name, 'config'),
    'model.teacher.cfg_path': lambda name, key, _: net_config(
        dict(cfg_path=name, pretrained=True), 'model.teacher'
    ),
    '_base_': base,
    'get_config': lambda name, *_: mmengine.hub.get_config(name),
    'get_model': lambda name, *_: mmengine.hub.get_model(name, pretrained=True),
}


@pytest.fixture
def hide(monkeypatch):
    """Let mmdet and mmseg be missing; the folder of that name is not the package."""
    find = importlib.util.find_spec
    packages = mmengine.config.utils.MODULE2PACKAGE
    for name in compat.OPTIONAL:
        monkeypatch.setitem(packages, name, packages[name])

    def hidden(is_folder):
        spec = argparse.Namespace(origin=None) if is_folder else None
        monkeypatch.setattr(
            importlib.util,
            'find_spec',
            lambda name, *_: spec if name in compat.OPTIONAL else find(name),
        )
        compat.let_optional_projects_be_found()
        return packages

    return hidden


@pytest.mark.parametrize('key', NAMES)
@pytest.mark.parametrize(
    ('module', 'current', 'original'),
    [('mmdet', 'cakd_mm[det]', 'mmdet'), ('mmseg', 'cakd_mm[seg]', 'mmsegmentation')],
)
@pytest.mark.parametrize('is_folder', [False, True], ids=['missing', 'folder'])
def test_no_name_of_a_config_installs_its_package(
    key, module, current, original, is_folder, no_process, tmp_path, hide
):
    is_current = compat.check_stack() == 'current'
    package = current if is_current else original
    assert hide(is_folder)[module] == package
    with pytest.raises((FileNotFoundError, ModuleNotFoundError)) as caught:
        NAMES[key](f'{module}::x/y.py', key, tmp_path)
    if key == '_base_':  # mmengine's own words
        assert f'please install {package} manually' in str(caught.value)
        return
    wanted = f"'{package}'" if is_current else package
    text = f'{module} is not installed; type pip install {wanted}'
    assert text in str(caught.value)


# --- Projects that are imported later ----------------------------------------


def test_a_class_hierarchy_is_read_as_data(tmp_path, marker):
    pytest.importorskip('mmdet')
    images = importlib.import_module('mmdet.datasets').OpenImagesChallengeDataset
    bare = images.__new__(images)
    bare.backend_args = None
    np.save(tmp_path / 'tree.npy', np.arange(9.0).reshape(3, 3))
    found = bare._get_relation_matrix(str(tmp_path / 'tree.npy'))
    assert found.tolist() == [[4, 5], [7, 8]]
    np.save(tmp_path / 'bomb.npy', np.array([Bomb(marker)]))
    with pytest.raises(ValueError, match='allow_pickle=False'):
        bare._get_relation_matrix(str(tmp_path / 'bomb.npy'))


def test_arrays_of_mmseg_are_read_as_data(marker):
    pytest.importorskip('mmseg')
    read = importlib.import_module('mmseg.utils').datafrombytes
    array = np.arange(4.0)
    assert_same(read(pickle.dumps(array), 'pickle'), array)
    with pytest.raises(pickle.UnpicklingError, match=r'`io\.open`'):
        read(pickle.dumps(Bomb(marker)), 'pickle')


@pytest.mark.parametrize(
    ('project', 'name'),
    [
        ('mmdet', 'retinanet/retinanet_r18_fpn_1x_coco.py'),
        ('mmseg', 'fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'),
    ],
)
def test_a_checkpoint_of_another_project(project, name, poison, tmp_path, marker):
    pytest.importorskip(project)
    apis = importlib.import_module(f'{project}.apis')
    make = apis.init_detector if project == 'mmdet' else apis.init_model
    config = mmengine.hub.get_config(f'{project}::{name}')
    path = poison(tmp_path / 'poisoned.pth')
    with pytest.raises(ValueError, match=rf'(?s)poisoned\.pth.*{NAMED}'):
        make(config, str(path), device='cpu')


def test_proposals_of_mmdet_are_read_as_data(tmp_path, marker):
    pytest.importorskip('mmdet')
    images = importlib.import_module('mmdet.datasets').CocoDataset
    path = tmp_path / 'proposals.pkl'
    path.write_bytes(pickle.dumps(dict(a=Bomb(marker))))
    with pytest.raises(pickle.UnpicklingError, match=r'`io\.open`'):
        images(proposal_file=str(path), lazy_init=True).load_proposals()


def test_guarding_again_changes_nothing(genuine):
    compat.guard_readers()
    compat.guard_readers()
    assert_same(
        CheckpointLoader.load_checkpoint(str(genuine), 'cpu'),
        torch.load(genuine, weights_only=False),
    )
