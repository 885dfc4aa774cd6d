"""A detector and a segmentor, from a run to the plain student of their projects."""

import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from tiny_scenes import FCN, RETINANET, scenes_config, train_scenes

from cakd_mm import plain_operations
from cakd_mm.deployment.student import read_student
from cakd_mm.tasks import task_of_config
from cakd_mm.utils import extract
from cakd_mm.visualization.pictures import draw_run

NETS = dict(mmdet=RETINANET, mmseg=FCN)
# What a user of mmdet or mmseg types. mmcv lacks its operations here, and mmpretrain,
# which both import, cannot be imported beside a transformers as new as this one.
LOAD = """
import importlib.util, sys
sys.modules['transformers'] = None
spec = importlib.util.spec_from_file_location('plain_operations', sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules['mmcv._ext'] = module.PlainOperations()
import torch
def show(load, config, checkpoint, out):
    net = load(config, checkpoint, device='cpu')
    assert not any(name.startswith(('cakd_mm', 'mmrazor')) for name in sys.modules)
    torch.save(net.state_dict(), out)
    print(net.dataset_meta['classes'][-1])
"""
LOADERS = dict(mmdet='init_detector', mmseg='init_model')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The config and the work dir of a run of each."""
    found = {}
    for scope, net in NETS.items():
        cfg = scenes_config(net)
        found[scope] = cfg, train_scenes(cfg, tmp_path_factory.mktemp(scope))
    return found


@pytest.fixture(params=NETS)
def run(request, runs):
    return request.param, *runs[request.param]


def plain_student(scope, folder, tmp_path):
    """Check the config of a student; return the path of what mmdet needs of it."""
    plain = Config.fromfile(folder / 'student.py')
    assert plain.default_scope == scope
    assert plain.model.type == NETS[scope]['type']
    assert plain.model.data_preprocessor.mean == [64.0] * 3
    # The scenes are ours, and nothing else is.
    plain.pop('custom_imports')
    for name in ('test', 'val'):
        plain[f'{name}_dataloader'].dataset = dict(type='CocoDataset', ann_file='no')
    plain.dump(tmp_path / f'plain_{scope}.py')
    return tmp_path / f'plain_{scope}.py'


def test_students_are_plain_and_load_without_us(runs, tmp_path):
    """Both in one process, because mmdet and mmseg import much of the same."""
    code = [LOAD]
    for scope, (_, folder) in runs.items():
        config = plain_student(scope, folder, tmp_path)
        files = [config, folder / 'student.pth', tmp_path / f'{scope}.pth']
        code.append(f'from {scope}.apis import {LOADERS[scope]} as load')
        code.append(f'show(load, *{[*map(str, files)]})')
    command = [sys.executable, '-W', 'ignore', '-c', '\n'.join(code)]
    command.append(plain_operations.__file__)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [x for x in done.stdout.split('\n') if x == '9'] == ['9', '9']
    for scope, (_, folder) in runs.items():
        loaded = torch.load(tmp_path / f'{scope}.pth')
        saved = torch.load(folder / 'student.pth', weights_only=False)['state_dict']
        assert loaded.keys() == saved.keys()
        for name, value in saved.items():
            assert torch.equal(loaded[name], value), name


def test_a_student_that_differs_is_refused(run, monkeypatch):
    scope, cfg, folder = run
    task = task_of_config(cfg.model.architecture)
    load = type(task).load

    def other(self, cfg, checkpoint):
        net = load(self, cfg, checkpoint)
        weight = next(net.backbone.parameters())
        weight.data[0] += 1e-3
        return net

    monkeypatch.setattr(type(task), 'load', other)
    weights = torch.load(folder / 'student.pth', weights_only=False)['state_dict']
    with pytest.raises(RuntimeError, match='not to be trusted'):
        extract.save_student(cfg, weights, folder / 'again.pth')


def test_outputs_of_any_nesting_are_compared():
    one = dict(a=[torch.ones(2), (torch.zeros(1), None)], b='x')
    assert extract._are_equal(deepcopy(one), one, 0.0)
    for change in (
        lambda x: x['a'][1][0].add_(1),
        lambda x: x['a'].append(1),
        lambda x: x.update(b='y'),
        lambda x: x.update(c=1),
    ):
        other = deepcopy(one)
        change(other)
        assert not extract._are_equal(other, one, 0.0)


def test_what_is_for_classifiers_says_so(run, capsys):
    scope, _, folder = run
    config, checkpoint = folder / 'student.py', folder / 'student.pth'
    with pytest.raises(ValueError, match='classifiers are exported here.*' + scope):
        read_student(str(config), str(checkpoint))
    names = [name for name, _ in draw_run(folder)]
    assert names == ['terms.png']
    assert 'show the classes of whole images' in capsys.readouterr().out
