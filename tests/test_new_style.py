"""Configs of mmengine's new style, whose types are classes, in every tool."""

import uuid
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.config.lazy import LazyObject
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain import get_model
from mmpretrain.datasets import CIFAR10
from mmrazor.registry import MODELS
from tiny import algorithm, digits_config, save_teacher
from tiny_runs import feature_config
from tools_inside import run_tool

from cakd_mm.engine import launch
from cakd_mm.engine.launch.keys import unread_keys
from cakd_mm.utils.net_config import read_named
from cakd_mm.visualization.sweep import read_run

LEAF = Path(__file__).with_name('new_style_leaf.py')


def weights(path):
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    """The work dir of the leaf's run, by the Runner alone."""
    folder = tmp_path_factory.mktemp('new_style')
    cfg = Config.fromfile(LEAF)
    cfg.model.teacher_ckpt = str(save_teacher(folder / 'teacher.pth'))
    cfg.launcher, cfg.work_dir = 'none', str(folder / 'run')
    cfg.experiment_name = uuid.uuid4().hex
    Runner.from_cfg(cfg).train()
    return folder / 'run'


def test_it_trains_what_the_names_train(ran, trained):
    """The same student, bit for bit, as a leaf with bases."""
    assert_same(weights(ran / 'student.pth'), weights(trained / 'student.pth'))


def test_the_written_config_builds_the_same(ran):
    written = Config.fromfile(ran / 'new_style_leaf.py')
    own = Config.fromfile(LEAF)
    own.model.teacher_ckpt = written.model.teacher_ckpt
    for name in ('model', 'train_dataloader', 'default_hooks', 'optim_wrapper'):
        assert written[name] == own[name]
    left, right = algorithm(written), algorithm(own)
    assert_same(dict(left.state_dict()), dict(right.state_dict()))
    losses = left.distiller.distill_losses, right.distiller.distill_losses
    assert [repr(one) for one in losses[0].values()] == [*map(repr, losses[1].values())]


def test_the_plain_student_needs_none_of_it(ran):
    cfg = Config.fromfile(ran / 'student.py')
    assert cfg.custom_imports.imports == ['cakd_mm']
    assert cfg.model.backbone == dict(type='cakd_mm.models.CIFARResNet', depth=8)
    student = get_model(cfg, pretrained=str(ran / 'student.pth'))
    assert_same(dict(student.state_dict()), weights(ran / 'student.pth'))


def test_every_tool_takes_it(ran, tmp_path, monkeypatch, capsys):
    """Training, going on, scoring, extracting and plotting."""
    folder, teacher = tmp_path / 'run', ran.parent / 'teacher.pth'
    options = [f'model.teacher_ckpt={teacher}']
    common = [LEAF, '--work-dir', folder, '--cfg-options', *options]
    run_tool(monkeypatch, 'train.py', *common, 'train_cfg.max_epochs=1')
    run_tool(monkeypatch, 'train.py', *common, '--resume')
    assert_same(weights(folder / 'student.pth'), weights(ran / 'student.pth'))
    last = folder / 'epoch_2.pth'
    tool = 'model_converters/extract_student.py'
    run_tool(monkeypatch, tool, LEAF, last, '--out', tmp_path / 'out.pth')
    assert_same(weights(tmp_path / 'out.pth'), weights(ran / 'student.pth'))
    for config in (LEAF, folder / LEAF.name):
        run_tool(monkeypatch, 'test.py', config, last, '--work-dir', tmp_path / 'test')
    run_tool(monkeypatch, 'analysis_tools/plot_cakd.py', folder, '--out', tmp_path)
    assert {'terms.png', 'clusters.png'} <= {file.name for file in tmp_path.iterdir()}
    printed = capsys.readouterr().out
    assert printed.count('accuracy/top1') >= 4
    assert 'Nobody reads this key' not in printed
    run = read_run(folder)
    assert run.config == 'new_style_leaf'
    kind = 'model', 'distiller', 'distill_losses', 'loss_feature', 'type'
    assert run.settings[kind] == 'CAKDFeatureLoss'  # as an old leaf has it


def test_what_it_imports_and_defines_is_no_unread_key(tmp_path):
    cfg = Config.fromfile(LEAF)
    assert {'OptimWrapper', '_net'} <= cfg.keys()
    assert unread_keys(cfg) == []
    file = tmp_path / 'leaf.py'
    file.write_text('import torch.optim as optimizer\nresumed = 1\n')
    (sentence,) = unread_keys(Config.fromfile(file))
    assert sentence.startswith('`resumed` = 1: Nobody reads this key. Write resume')


def test_a_base_below_an_import_is_named(tmp_path):
    """mmengine then takes the file for one of its new style."""
    file = tmp_path / 'leaf.py'
    file.write_text("from torch.optim import SGD\n_base_ = 'base.py'\n")
    message = r'`config` = .*leaf\.py.*cannot read it: .*write it above the imports'
    with pytest.raises(ValueError, match=message):
        read_named(str(file), 'config')


def test_a_base_above_the_imports_is_read(tmp_path):
    file = tmp_path / 'leaf.py'
    file.write_text(
        "_base_ = 'cakd_mm::_base_/schedules/digits.py'\n"
        'from torch.optim import Adam\n'
        'optim_wrapper = dict(optimizer=dict(_delete_=True, type=Adam, lr=0.1))\n'
    )
    cfg = read_named(str(file), 'config')
    cfg.dump(tmp_path / 'written.py')
    read = Config.fromfile(tmp_path / 'written.py')
    assert read.optim_wrapper.optimizer == dict(type='Adam', lr=0.1)
    assert 'Adam' not in read


def test_names_that_are_not_lazy_are_found_too(tmp_path):
    """A distiller of names in a model that is a class, which brings no scope."""
    teacher = str(save_teacher(tmp_path / 'teacher.pth'))
    cfg = digits_config(feature_config(tmp_path), model__teacher_ckpt=teacher)
    expected = algorithm(cfg)
    del cfg.model._scope_
    cfg.model.type = MODELS.get('FrozenTeacherDistill')
    assert_same(dict(algorithm(cfg).state_dict()), dict(expected.state_dict()))


def test_unresolved_objects_are_resolved(tmp_path):
    """In plain dicts, of which mmengine resolves nothing."""
    teacher = str(save_teacher(tmp_path / 'teacher.pth'))
    cfg = digits_config(feature_config(tmp_path), model__teacher_ckpt=teacher)
    expected = algorithm(cfg)
    distiller = cfg.model.distiller.to_dict()
    for part, module, name in (
        (distiller['connectors']['feature'], 'connectors', 'PooledConnector'),
        (distiller['distill_losses']['loss_feature'], 'losses', 'CAKDFeatureLoss'),
        (
            distiller['distill_losses']['loss_feature']['scorer'],
            'scorers',
            'ScoringNetwork',
        ),
    ):
        part['type'] = LazyObject(f'cakd_mm.models.{module}', name)
    preprocessor = dict(cfg.data_preprocessor)
    preprocessor['type'] = LazyObject(
        'cakd_mm.models.data_preprocessors', 'BatchPreprocessor'
    )
    model = dict(cfg.model, distiller=distiller, data_preprocessor=preprocessor)
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = MODELS.build(model)
    built.init_weights()
    assert_same(dict(built.state_dict()), dict(expected.state_dict()))


@pytest.mark.parametrize('kind', [AmpOptimWrapper, 'mmengine.AmpOptimWrapper'])
def test_mixed_precision_by_class_becomes_that_of_a_cpu(kind, monkeypatch):
    monkeypatch.setattr('cakd_mm.engine.launch.device.get_device', lambda: 'cpu')
    cfg = digits_config('vanilla/resnet8_digits.py')
    cfg.launcher = 'none'
    cfg.optim_wrapper.type, cfg.optim_wrapper.loss_scale = kind, 'dynamic'
    launch.adapt_to_device(cfg)
    assert cfg.optim_wrapper.type == 'BF16OptimWrapper'
    assert cfg.optim_wrapper.dtype == 'bfloat16'
    assert 'loss_scale' not in cfg.optim_wrapper


@pytest.mark.parametrize('kind', [CIFAR10, 'CIFAR10', 'mmpretrain.CIFAR10'])
def test_data_that_is_not_there_is_named(kind, tmp_path):
    dataset = dict(type=kind, data_root=str(tmp_path), download=False)
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    with pytest.raises(FileNotFoundError, match=r'no whole cifar-10.*download=False'):
        launch.check_data(cfg, ('train',))
