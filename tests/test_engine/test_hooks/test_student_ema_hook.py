import copy
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from tiny import SMALL, digits_config, distill_config

from cakd_mm.engine.hooks import StudentEMAHook

MOMENTUM = 0.25


class Watch(Hook):
    """Keeps the student's weights after every step and those validated."""

    def __init__(self):
        self.raw, self.validated = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.raw.append(student_state(runner))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.validated.append(student_state(runner))


def student_of(runner):
    return getattr(runner.model, 'student', runner.model)


def student_state(runner):
    return copy.deepcopy(dict(student_of(runner).state_dict()))


def parameters(runner):
    return [name for name, _ in student_of(runner).named_parameters()]


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a run of six steps, distilled or plain, with the hook."""

    def build(distilled=True, work_dir='run', ema=None, **options):
        if distilled:
            cfg = distill_config(tmp_path, **(SMALL | options))
        else:
            cfg = digits_config('vanilla/resnet8_digits.py', **(SMALL | options))
        cfg.default_hooks.pop('extract')
        cfg.custom_hooks = [
            dict(type='StudentEMAHook', momentum=MOMENTUM, **(ema or {}))
        ]
        runner = make_runner(cfg, work_dir)
        (runner.ema,) = (h for h in runner.hooks if isinstance(h, StudentEMAHook))
        runner.watch = Watch()
        runner.register_hook(runner.watch)
        return runner

    return build


def saved(runner, name='epoch_2.pth'):
    return torch.load(Path(runner.work_dir) / name, weights_only=False)


def by_hand(states, names):
    """The average of the recorded weights, in float64."""
    average = {name: states[0][name].double() for name in names}
    for state in states[1:]:
        for name in names:
            average[name] += MOMENTUM * (state[name].double() - average[name])
    return average


@pytest.mark.parametrize('distilled', [True, False])
def test_the_average_of_the_students_weights_is_validated_and_saved(start, distilled):
    runner = start(distilled)
    runner.train()
    ema, raw = runner.ema.ema_model.module, runner.watch.raw[-1]
    assert type(ema) is type(student_of(runner))  # and neither teacher nor losses
    average = dict(ema.named_parameters())
    expected = by_hand(runner.watch.raw, parameters(runner))
    assert average.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(average[name].double(), value, rtol=0, atol=1e-6)
    assert not torch.equal(average['head.fc.weight'], raw['head.fc.weight'])
    # It is what is validated, and the student has its own weights again.
    validated = runner.watch.validated[-1]
    assert_same({name: validated[name] for name in average}, average)
    assert_same(student_state(runner), raw)
    # A checkpoint holds the average, and beside it the student's own weights.
    checkpoint = saved(runner)
    prefix = 'architecture.' if distilled else ''
    for name, value in ema.state_dict().items():
        assert torch.equal(checkpoint['state_dict'][prefix + name], value)
    beside = {f'module.{name}': value for name, value in raw.items()}
    assert_same(checkpoint['ema_state_dict'], dict(beside, steps=torch.tensor(6)))


@pytest.mark.parametrize(
    ('distilled', 'stopped_at', 'left', 'update_buffers'),
    [(True, 'iter_4.pth', 2, False), (False, 'epoch_1.pth', 3, True)],
)
def test_resumed_equals_uninterrupted(
    start, distilled, stopped_at, left, update_buffers
):
    options = dict(ema=dict(update_buffers=update_buffers))
    if stopped_at.startswith('iter'):
        options['default_hooks__checkpoint__by_epoch'] = False
        options['default_hooks__checkpoint__interval'] = 2
    whole = start(distilled, 'whole', **options)
    whole.train()
    mean = 'backbone.bn1.running_mean'
    average = whole.ema.ema_model.state_dict()
    own = torch.equal(average[f'module.{mean}'], student_state(whole)[mean])
    assert own is not update_buffers
    path = Path(whole.work_dir) / stopped_at
    resumed = start(distilled, 'resumed', resume=True, load_from=str(path), **options)
    resumed.train()
    assert len(resumed.watch.raw) == left
    assert_same(student_state(resumed), student_state(whole))
    assert_same(resumed.ema.ema_model.state_dict(), average)


@pytest.mark.parametrize('has_average', [True, False])
def test_load_from_starts_the_average_from_the_loaded_student(
    start, tmp_path, has_average
):
    first = start(work_dir='first', epochs=1)
    first.train()
    path = Path(first.work_dir) / 'epoch_1.pth'
    checkpoint = saved(first, 'epoch_1.pth')
    if not has_average:
        path = tmp_path / 'without.pth'
        del checkpoint['ema_state_dict']
        torch.save(checkpoint, path)
    second = start(work_dir='second', load_from=str(path))
    seen = {}

    class Look(Hook):
        def before_train(self, runner):
            average = runner.ema.ema_model
            seen.update(average.module.state_dict(), steps=average.steps.clone())
            seen.update(copy.deepcopy(seen))

    second.register_hook(Look())
    second.train()
    assert seen.pop('steps') == 0
    student = {
        name.removeprefix('architecture.'): value
        for name, value in checkpoint['state_dict'].items()
        if name.startswith('architecture.')
    }
    assert_same(seen, student)


def test_resuming_a_checkpoint_without_average_starts_one(start):
    first = start(work_dir='first', epochs=1)
    first._hooks = [h for h in first.hooks if h is not first.ema]
    first.train()
    path = Path(first.work_dir) / 'epoch_1.pth'
    second = start(work_dir='second', resume=True, load_from=str(path))
    second.train()
    loaded = {
        name.removeprefix('architecture.'): value
        for name, value in saved(first, 'epoch_1.pth')['state_dict'].items()
    }
    names = parameters(second)
    assert len(second.watch.raw) == 3
    expected = by_hand(second.watch.raw, names)
    average = second.ema.ema_model.module.state_dict()
    for name in names:
        torch.testing.assert_close(
            average[name].double(), expected[name], rtol=0, atol=1e-6
        )
    assert not torch.equal(average[names[0]], loaded[names[0]])
