import copy
import itertools
import math
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from tiny import digits_config, distill_config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cakd_mm.engine.hooks import FiniteLossHook, NonFiniteError

ADVICE = 'Lower optim_wrapper.optimizer.lr, or clip gradients'
POISONED = dict(
    student=lambda model: model.student.head.loss_module,
    distill=lambda model: model.distiller.distill_losses['loss_cakd'],
    input=lambda model: model.data_preprocessor,
)
# What is nan or inf then; `loss` is mmengine's sum.
NAMED = dict(
    student={'student.loss', 'loss'},
    distill={'distill.loss_cakd', 'loss'},
    input={'student.loss', 'distill.loss_cakd', 'loss'},
)


class Before(Hook):
    """Keeps the weights and buffers from before every step."""

    def __init__(self):
        self.weights = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.weights.append(copy.deepcopy(runner.model.state_dict()))


def with_guard(cfg, mode, interval=100, steps=5):
    """Set the guard; ``steps`` batches an epoch."""
    cfg.default_hooks.finite.update(mode=mode, interval=interval)
    cfg.train_dataloader.dataset.indices = 32 * steps
    cfg.default_hooks.pop('extract')
    return cfg


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a distillation run with the guard and a record of its weights."""

    def build(mode, interval=100, steps=5, **options):
        cfg = distill_config(tmp_path, **options)
        runner = make_runner(with_guard(cfg, mode, interval, steps))
        runner.before = Before()
        runner.register_hook(runner.before, priority='HIGHEST')
        return runner

    return build


def poison(module, step, value=math.nan):
    """Make a loss, or the images, ``value`` in one training step (from 1)."""
    calls = itertools.count(1)

    def spoil(_, __, output):
        if not module.training or next(calls) != step:
            return output
        if isinstance(output, dict):
            return {**output, 'inputs': output['inputs'] + value}
        return output * value  # and so is its gradient

    module.register_forward_hook(spoil)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def stop(runner):
    """Train until the guard stops the run and return its words."""
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    return str(caught.value)


def components(message):
    """Return ``{name: value}`` from the error."""
    text = message.split(': ', 1)[1].split('. Scores: ')[0]
    return dict(part.split(' = ') for part in text.split(', '))


def checkpoints(runner):
    return sorted(p.name for p in Path(runner.work_dir).glob('*.pth'))


@pytest.mark.parametrize(
    ('mode', 'source', 'value'),
    [
        ('auto', 'student', math.nan),
        *itertools.product(
            ('immediate', 'deferred'), ('student', 'distill', 'input'), (math.nan,)
        ),
        ('immediate', 'student', math.inf),
        ('deferred', 'distill', -math.inf),
    ],
)
def test_the_run_stops_and_says_why(start, mode, source, value):
    # Step 5 is the second of epoch 2: a logging point if there is one every 2.
    runner = start(mode, interval=2 if mode == 'deferred' else 100, steps=3)
    poison(POISONED[source](runner.model), step=5, value=value)
    message = stop(runner)
    assert runner.iter == 5 - 1
    assert 'step 5 (epoch 2)' in message
    assert components(message) == {name: str(value) for name in NAMED[source]}
    scores = message.split('. Scores: ')[1].split('. ')[0]
    for recorder in ('student.logits in [', 'teacher.logits in ['):
        assert recorder in scores
    assert ('nan' in scores) == (source == 'input')
    assert ADVICE in message
    good = Path(runner.work_dir) / 'epoch_1.pth'
    assert message.endswith(f'The last good checkpoint is {good}.')
    assert checkpoints(runner) == ['epoch_1.pth']
    saved = torch.load(good, weights_only=False)['state_dict']
    assert_same(saved, runner.before.weights[3])


@pytest.mark.parametrize('mode', ['immediate', 'deferred'])
def test_without_a_checkpoint_it_says_so(start, mode):
    runner = start(mode, interval=1)
    poison(POISONED['student'](runner.model), step=1)
    assert stop(runner).endswith('No checkpoint had been written yet.')


@pytest.mark.parametrize('mode', ['immediate', 'deferred'])
def test_a_plain_classifier_is_guarded_too(make_runner, mode):
    cfg = digits_config('vanilla/resnet8_digits.py')
    runner = make_runner(with_guard(cfg, mode, interval=1))
    poison(runner.model.head.loss_module, step=2)
    message = stop(runner)
    assert 'step 2 (epoch 1): loss = nan. Scores: not recorded.' in message


@pytest.mark.parametrize('source', ['student', 'distill', 'input'])
def test_deferred_undoes_the_bad_step_and_all_after_it(start, source):
    runner = start('deferred', interval=4)
    poison(POISONED[source](runner.model), step=6)
    message = stop(runner)
    # Step 6 opens epoch 2, whose fourth batch is the first to be logged.
    assert runner.iter == 9 - 1
    assert 'step 6 (epoch 2)' in message
    assert set(components(message)) == NAMED[source]
    before = runner.before.weights
    assert len(before) == 9
    assert any(not torch.equal(before[5][k], v) for k, v in before[4].items())
    for later in (*before[6:], runner.model.state_dict()):
        assert_same(later, before[5])


def test_deferred_keeps_the_scores_of_the_bad_step(start):
    runner = start('deferred', interval=5, epochs=1)
    poison(POISONED['student'](runner.model), step=2)
    seen = []
    runner.model.student.head.loss_module.register_forward_hook(
        lambda _, args, __: seen.append(args[0].detach())
    )
    message = stop(runner)
    low, high = seen[1].aminmax()
    assert f'student.logits in [{low:.4g}, {high:.4g}]' in message


def test_deferred_names_the_first_of_two_bad_steps(start):
    runner = start('deferred', epochs=1)
    poison(POISONED['distill'](runner.model), step=2)
    poison(POISONED['student'](runner.model), step=4, value=math.inf)
    message = stop(runner)
    assert 'step 2 (epoch 1)' in message
    assert components(message) == {'distill.loss_cakd': 'nan', 'loss': 'nan'}
    assert runner.iter == 5  # at the end of the epoch


def test_deferred_refuses_a_checkpoint_that_falls_due(start):
    runner = start(
        'deferred',
        default_hooks__checkpoint__by_epoch=False,
        default_hooks__checkpoint__interval=4,
    )
    poison(POISONED['student'](runner.model), step=7)
    message = stop(runner)
    assert runner.iter == 8 - 1
    assert 'step 7 (epoch 2)' in message
    assert checkpoints(runner) == ['iter_4.pth']
    assert message.endswith('iter_4.pth.')


def test_deferred_does_not_validate_after_a_bad_step(tmp_path, make_runner):
    cfg = distill_config(tmp_path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=3)
    runner = make_runner(with_guard(cfg, 'deferred', steps=4))
    poison(POISONED['student'](runner.model), step=2)
    runner.val_evaluator.evaluate = None  # never reached
    assert 'step 2 ' in stop(runner)
    assert runner.iter == 3


def test_deferred_does_not_begin_another_epoch(tmp_path, make_runner):
    """Where nothing is saved or validated between two epochs."""
    cfg = distill_config(tmp_path, default_hooks__checkpoint__interval=5)
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    runner = make_runner(with_guard(cfg, 'deferred', steps=4))
    poison(POISONED['student'](runner.model), step=3)
    assert 'step 3 (epoch 1)' in stop(runner)
    assert runner.iter == 4


def test_deferred_leaves_nothing_bad_to_the_average(tmp_path, make_runner):
    cfg = distill_config(tmp_path, epochs=1)
    cfg.custom_hooks = [dict(type='StudentEMAHook', momentum=0.5)]
    runner = make_runner(with_guard(cfg, 'deferred'))
    poison(POISONED['student'](runner.model), step=2)
    stop(runner)
    (ema,) = (h for h in runner.hooks if type(h).__name__ == 'StudentEMAHook')
    assert all(v.isfinite().all() for v in ema.ema_model.state_dict().values())


@pytest.mark.parametrize(('mode', 'stops_at'), [('immediate', 4), ('deferred', 6)])
def test_a_bad_micro_step_reaches_no_later_update(start, mode, stops_at):
    """Of accumulated gradients, which steps 3 and 6 apply."""
    runner = start(
        mode,
        interval=6,
        steps=6,
        epochs=1,
        optim_wrapper__accumulative_counts=3,
    )
    poison(POISONED['student'](runner.model), step=4)
    assert 'step 4 (epoch 1)' in stop(runner)
    assert runner.iter == stops_at - 1
    before = runner.before.weights
    weight = 'architecture.head.fc.weight'
    assert torch.equal(before[1][weight], before[0][weight])
    assert not torch.equal(before[3][weight], before[2][weight])
    bad = runner.model.state_dict()
    if mode == 'deferred':
        assert_same(bad, before[3])
    assert torch.equal(bad[weight], before[3][weight])


def test_losses_may_come_and_go(tmp_path, make_runner):
    cfg = distill_config(tmp_path)
    cfg.custom_hooks = [dict(type='mmrazor.StopDistillHook', stop_epoch=1)]
    runner = make_runner(with_guard(cfg, 'deferred', interval=2))
    poison(POISONED['student'](runner.model), step=8)
    message = stop(runner)
    assert 'step 8 (epoch 2)' in message
    assert components(message) == {'student.loss': 'nan', 'loss': 'nan'}


@pytest.mark.parametrize('mode', ['immediate', 'deferred'])
def test_weights_that_are_not_finite_are_not_saved(start, mode):
    runner = start(mode, steps=3)

    class Break(Hook):
        def after_train_epoch(self, runner):
            runner.model.student.head.fc.weight.data[1, 2] = math.inf

    runner.register_hook(Break())
    message = stop(runner)
    assert message.startswith(
        'architecture.head.fc.weight is not finite after step 3 although the losses '
        f'were. {ADVICE}'
    )
    assert checkpoints(runner) == []


def test_the_run_goes_on_from_the_last_good_checkpoint(tmp_path, make_runner):
    def runner(name, **options):
        cfg = distill_config(tmp_path, **options)
        return make_runner(with_guard(cfg, 'immediate', steps=3), name)

    stopped = runner('stopped')
    poison(POISONED['distill'](stopped.model), step=5)
    stop(stopped)
    resumed = runner('stopped', resume=True)
    resumed.train()
    clean = runner('clean')
    clean.train()
    assert_same(resumed.model.state_dict(), clean.model.state_dict())


def test_the_guard_changes_nothing(start):
    def train(mode):
        runner = start(mode or 'auto', interval=2, val_cfg__type='ValLoop')
        if mode is None:
            runner._hooks = [
                h for h in runner.hooks if not isinstance(h, FiniteLossHook)
            ]
        runner.train()
        momentum = runner.optim_wrapper.optimizer.state_dict()['state']
        return runner.model.state_dict(), {
            i: state['momentum_buffer'] for i, state in momentum.items()
        }

    unguarded = train(None)
    for mode in ('immediate', 'deferred'):
        for got, want in zip(train(mode), unguarded, strict=True):
            assert_same(got, want)


class CountReads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU."""

    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ('_local_scalar_dense', 'nonzero', 'item'):
            self.reads += 1
        return func(*args, **(kwargs or {}))


def test_deferred_reads_nothing_between_logging_points(start, monkeypatch):
    runner = start('deferred', interval=4, epochs=1)
    (guard,) = (h for h in runner.hooks if isinstance(h, FiniteLossHook))
    counter, reads = CountReads(), []

    def counted(method):
        def call(*args, **kwargs):
            before = counter.reads
            with counter:
                method(*args, **kwargs)
            reads.append(counter.reads - before)

        return call

    def read(name):
        method = getattr(torch.Tensor, name)

        def call(tensor, *args, **kwargs):
            counter.reads += 1
            return method(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, call)

    for name in ('tolist', 'numpy', 'cpu', 'item', '__bool__', '__int__', '__float__'):
        read(name)
    guard.before_train_iter = counted(guard.before_train_iter)
    guard.after_train_iter = counted(guard.after_train_iter)
    runner.train()
    before, after = reads[::2], reads[1::2]
    assert before == [0] * 5
    assert after[:3] + after[4:] == [0] * 4
    assert after[3] > 0  # the counter counts


def one_rank(rank, folder, mode, bad_step, both):
    """What each of two processes does; writes down how it ended."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    model = nn.Linear(2, 2)
    guard = FiniteLossHook(mode=mode, interval=3)
    runner = SimpleNamespace(model=model, iter=0, epoch=0, work_dir=str(folder))
    text = 'ran to its end'
    try:
        guard.before_train(runner)
        for step in range(6):
            runner.iter = step
            guard.before_train_iter(runner, step)
            with torch.no_grad():
                model.weight.fill_(step)
            bad = step + 1 == bad_step and rank == 1
            losses = dict(
                loss_a=torch.tensor(math.nan if bad else 1.5), loss_b=torch.tensor(2.0)
            )
            guard.after_train_iter(runner, step, outputs=losses)
    except NonFiniteError as error:
        text = str(error)
    weight = model.weight[0, 0].item()
    (folder / f'{rank}').write_text(f'{runner.iter + 1}|{weight}|{text}')
    both.wait(60)
    os._exit(0)  # torch 2.5 may deadlock when it takes a gloo group apart


@pytest.mark.parametrize(
    ('mode', 'bad_step', 'stops_at', 'weight'),
    [('immediate', 2, 2, 1), ('deferred', 4, 6, 2), ('deferred', None, 6, 5)],
)
def test_two_ranks_stop_together(tmp_path, mode, bad_step, stops_at, weight):
    """``weight``: step i sets it to i - 1; deferred goes back to before the step."""
    context = multiprocessing.get_context('fork')
    both = context.Barrier(2)
    ranks = [
        context.Process(target=one_rank, args=(rank, tmp_path, mode, bad_step, both))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
    for rank, value in ((0, '1.5 on this rank, not finite on another'), (1, 'nan')):
        step, left, text = (tmp_path / f'{rank}').read_text().split('|')
        assert (int(step), float(left)) == (stops_at, weight)
        if bad_step is None:
            assert text == 'ran to its end'
        else:
            assert f'step {bad_step} (epoch 1): loss_a = {value}. Scores' in text


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(mode='late'), "`default_hooks.finite.mode` = 'late': .*'auto'"),
        (dict(interval=0), '`default_hooks.finite.interval` = 0: .*1 or more'),
        (dict(interval=-3), '`default_hooks.finite.interval` = -3'),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        FiniteLossHook(**options)


def test_a_bad_step_is_told_before_the_losses_change():
    runner = SimpleNamespace(model=nn.Linear(1, 1), iter=0, epoch=0, work_dir='.')
    guard = FiniteLossHook(mode='deferred')
    guard.before_train(runner)
    losses = dict(loss_a=torch.tensor(1.0), loss_b=torch.tensor(math.nan))
    guard.before_train_iter(runner, 0)
    guard.after_train_iter(runner, 0, outputs=losses)
    runner.iter = 1
    guard.before_train_iter(runner, 1)
    with pytest.raises(NonFiniteError, match=r'step 1 \(epoch 1\): loss_b = nan\.'):
        guard.after_train_iter(runner, 1, outputs=dict(loss_a=torch.tensor(1.0)))


@pytest.mark.parametrize('outputs', [None, {}, dict(note='no tensor')])
def test_a_step_without_losses_passes(outputs):
    runner = SimpleNamespace(model=nn.Linear(1, 1), iter=0, epoch=0)
    guard = FiniteLossHook(mode='deferred', interval=1)
    guard.before_train(runner)
    guard.before_train_iter(runner, 0)
    guard.after_train_iter(runner, 0, outputs=outputs)
