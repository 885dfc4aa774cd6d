"""mmengine's own ``EMAHook``, which averages teacher and distiller too."""

import copy
import re
import uuid
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from mmpretrain import get_model
from tiny import SMALL, algorithm, digits_config, distill_config
from tools_inside import run_tool

from cakd_mm.engine import launch
from cakd_mm.utils.extract import student_weights
from cakd_mm.visualization.history import configs_of

HOOKS = {
    'mmengine': dict(type='mmengine.EMAHook', momentum=0.25),
    'mmpretrain': dict(type='EMAHook', momentum=0.25, strict_load=True),
    'annealing': dict(
        type='mmengine.EMAHook', ema_type='MomentumAnnealingEMA', update_buffers=True
    ),
    'mean': dict(
        type='mmengine.EMAHook', ema_type='StochasticWeightAverage', begin_epoch=2
    ),
}
UNSCORED = dict(type='EMAHook', evaluate_on_ema=False, evaluate_on_origin=True)
SCORED = {
    'mmengine': dict(average=True),
    'unscored': dict(trained=True),
    'both': dict(average=True, trained=True),
    'student': dict(average=True),
}


class Watch(Hook):
    """Keeps the student's weights after every step."""

    def __init__(self):
        self.states = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        net = getattr(runner.model, 'student', runner.model)
        self.states.append(copy.deepcopy(dict(net.state_dict())))


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


OTHERS = dict(
    unscored=UNSCORED,
    both=dict(type='EMAHook', evaluate_on_origin=True),
    student=dict(type='StudentEMAHook'),
)


def built(folder, kind, work_dir='run', cfg=None, **options):
    """Build a run of six steps with one of the hooks."""
    cfg = cfg or distill_config(folder, **(SMALL | options))
    cfg.custom_hooks = [HOOKS.get(kind) or OTHERS[kind]]
    cfg.default_hooks.checkpoint.save_best = 'accuracy/top1'
    cfg.launcher, cfg.work_dir = 'none', str(folder / work_dir)
    cfg.experiment_name = uuid.uuid4().hex
    runner = Runner.from_cfg(cfg)
    (runner.ema,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    runner.watch = Watch()
    runner.register_hook(runner.watch)
    return runner


@pytest.fixture
def start(tmp_path):
    return partial(built, tmp_path)


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """A run with mmengine's hook, which has ended."""
    runner = built(tmp_path_factory.mktemp('averaged'), 'mmengine')
    runner.train()
    return runner


def by_hand(states, kind):
    """The average of the students' first convolution in float64."""
    weights = [state['backbone.conv1.weight'].double() for state in states]
    if kind == 'mean':  # which begins with the second of two epochs
        return torch.stack(weights[3:]).mean(0)
    average = weights[0]
    for step, weight in enumerate(weights[1:], 1):
        momentum = 0.25 if kind != 'annealing' else max(2e-4, 100 / (100 + step))
        average = average + momentum * (weight - average)
    return average


@pytest.mark.parametrize('kind', HOOKS)
def test_each_set_of_weights_is_extracted(start, kind, tmp_path, monkeypatch):
    runner = start(kind)
    teacher = copy.deepcopy(runner.model.teacher.state_dict())
    runner.train()
    folder = Path(runner.work_dir)
    raw, whole = runner.watch.states[-1], runner.ema.ema_model.module
    average = dict(whole.student.state_dict())
    expected = by_hand(runner.watch.states, kind)
    found = average['backbone.conv1.weight'].double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.equal(average['head.fc.weight'], raw['head.fc.weight'])
    # Neither the teacher nor its average is another net than before.
    assert_same(dict(runner.model.teacher.state_dict()), teacher)
    assert_same(dict(whole.teacher.state_dict()), teacher)
    # What the hook at the end and the tool write.
    assert_same(load(folder / 'student.pth')['state_dict'], raw)
    assert_same(load(folder / 'student_ema.pth')['state_dict'], average)
    cfg = runner.cfg.copy()
    cfg.dump(tmp_path / 'config.py')
    for options, weights in (([], raw), (['--ema'], average)):
        tool, out = 'model_converters/extract_student.py', tmp_path / 'out.pth'
        last = folder / 'epoch_2.pth'
        run_tool(
            monkeypatch, tool, tmp_path / 'config.py', last, '--out', out, *options
        )
        assert_same(load(out)['state_dict'], weights)
    (best,) = folder.glob('best_*.pth')
    expected = student_weights(load(best), ema=True)
    assert_same(load(folder / 'student_best.pth')['state_dict'], expected)
    checkpoint = str(folder / 'student_ema.pth')
    plain = get_model(Config.fromfile(folder / 'student_ema.py'), checkpoint)
    assert_same(dict(plain.state_dict()), average)


@pytest.mark.parametrize('kind', ['mmengine', 'mmpretrain', 'annealing'])
def test_resumed_equals_uninterrupted(start, kind):
    whole = start(kind, 'whole')
    whole.train()
    path = Path(whole.work_dir) / 'epoch_1.pth'
    resumed = start(kind, 'resumed', resume=True, load_from=str(path))
    resumed.train()
    assert len(resumed.watch.states) == 3
    assert_same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))
    average = dict(whole.ema.ema_model.state_dict())
    assert_same(dict(resumed.ema.ema_model.state_dict()), average)


def test_another_run_takes_the_average(averaged, tmp_path):
    """As the teacher, as the student and to score: the one that was validated."""
    runner = averaged
    average = dict(runner.ema.ema_model.module.student.state_dict())
    path = str(Path(runner.work_dir) / 'epoch_2.pth')
    options = dict(model__teacher_ckpt=path, model__student_ckpt=path)
    cfg = distill_config(tmp_path, **options)
    cfg.model.teacher.backbone.depth = 8
    model = algorithm(cfg)
    assert_same(dict(model.teacher.state_dict()), average)
    assert_same(dict(model.student.state_dict()), average)
    tested = launch.build_test_runner(runner.cfg.copy(), path)
    tested.test()
    assert_same(dict(tested.model.state_dict()), average)


def test_a_plain_classifiers_average_becomes_the_teacher(start, tmp_path):
    runner = start('mmengine', cfg=digits_config('vanilla/resnet20_digits.py', **SMALL))
    runner.train()
    average = dict(runner.ema.ema_model.module.state_dict())
    raw = runner.watch.states[-1]
    assert not torch.equal(average['head.fc.weight'], raw['head.fc.weight'])
    path = str(Path(runner.work_dir) / 'epoch_2.pth')
    model = algorithm(distill_config(tmp_path, model__teacher_ckpt=path))
    assert_same(dict(model.teacher.state_dict()), average)


def score(folder, name):
    """Test a plain student as tools/test.py does."""
    cfg = Config.fromfile(folder / f'{name}.py')
    cfg.work_dir = str(folder / 'tests')
    return launch.build_test_runner(cfg, str(folder / f'{name}.pth')).test()


@pytest.mark.parametrize('kind', SCORED)
def test_a_score_goes_with_the_weights_that_have_it(start, kind):
    runner = start(kind)
    lines = []
    runner.logger.info = lines.append
    runner.train()
    folder, found = Path(runner.work_dir), {}
    for which, name in (('trained', 'student'), ('average', 'student_ema')):
        found[which] = score(folder, name)
        scores = load(folder / f'{name}.pth')['meta']['scores']
        said = f'The plain student is {folder / name}.pth'
        (line,) = [x for x in lines if str(x).startswith(said)]
        if which in SCORED[kind]:
            assert scores == found[which]
            assert line.endswith(f'top1 {scores["accuracy/top1"]:.2f}.')
        else:
            assert scores == {}
            assert line.endswith('epoch 2, the last, not scored by validation.')
    assert found['trained'] != found['average']
    [summary] = [x for x in lines if str(x).startswith('Trained ')]
    [file] = re.findall(r'  file +.*/(.*)\n', summary)
    # What the last lines name has the score that they say.
    assert file == ('student_ema' if 'average' in SCORED[kind] else 'student') + '.pth'
    best = load(folder / 'student_best.pth')
    assert best['meta']['scores'] == score(folder, 'student_best')
    if kind == 'unscored':  # The best is the one that was validated.
        (file,) = folder.glob('best_*.pth')
        assert_same(best['state_dict'], student_weights(load(file), ema=False))


def test_the_tool_writes_an_average_beside_the_trained_student(
    averaged, tmp_path, monkeypatch
):
    runner = averaged
    runner.cfg.dump(tmp_path / 'config.py')
    checkpoint = Path(runner.work_dir) / 'epoch_2.pth'
    for options in ([], ['--ema']):
        tool = 'model_converters/extract_student.py'
        run_tool(monkeypatch, tool, tmp_path / 'config.py', checkpoint, *options)
    for end in ('student', 'student_ema'):
        weights = load(checkpoint.with_name(f'epoch_2_{end}.pth'))['state_dict']
        assert_same(weights, load(checkpoint.with_name(f'{end}.pth'))['state_dict'])
    (config,) = (x for x in configs_of(checkpoint.parent))
    assert config.stem == Path(runner.cfg.filename).stem
