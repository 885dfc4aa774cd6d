import itertools
import math
import multiprocessing
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from ranks import run_to_the_end, two_ranks
from reading import ReadError, no_reading
from tiny import digits_config, distill_config
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cakd_mm.engine.hooks import FiniteLossHook, NonFiniteError

LOWER = 'Lower optim_wrapper.optimizer.lr, which is {:.4g} in this step, or clip'
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


def with_guard(cfg, mode, interval=100, steps=5):
    """Set the guard; ``steps`` batches an epoch."""
    cfg.default_hooks.finite.update(mode=mode, interval=interval)
    cfg.train_dataloader.dataset.indices = 32 * steps
    return cfg


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a distillation run with the guard."""

    def build(mode, interval=100, steps=5, **options):
        cfg = distill_config(tmp_path, **options)
        return make_runner(with_guard(cfg, mode, interval, steps))

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


def files(runner):
    """Return the names of checkpoints and students written, all finite."""
    found = sorted(Path(runner.work_dir).glob('*.pth'))
    for path in found:
        for value in torch.load(path, weights_only=False)['state_dict'].values():
            assert value.float().isfinite().all(), path
    return [path.name for path in found]


@pytest.mark.parametrize(
    ('mode', 'source', 'value', 'cause'),
    [
        ('auto', 'student', math.nan, "it is the student's own loss: look for wrong"),
        (
            *('immediate', 'distill', -math.inf),
            'so look at model.distiller.distill_losses.loss_cakd (CAKDLogitLoss, '
            'tau=4.0, loss_weight=1.0): at the settings',
        ),
        (
            *('deferred', 'input', math.nan),
            "The teacher's scores are not finite although its weights are finite: look "
            'for extreme pixels in this batch, and at data_preprocessor.mean and std',
        ),
    ],
)
def test_the_run_stops_and_says_why(start, mode, source, value, cause):
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
    assert cause in message
    good = Path(runner.work_dir) / 'epoch_1.pth'
    assert message.endswith(f'The last good checkpoint is {good}.')
    assert files(runner) == ['epoch_1.pth']


def raise_the_rate(runner, data_batch):
    runner.optim_wrapper.optimizer.param_groups[0]['lr'] = 1e10


def break_the_teacher(runner, data_batch):
    runner.model.teacher.head.fc.weight[1, 3] = math.inf


def break_the_student(runner, data_batch):
    runner.model.student.head.fc.bias.data[1] = math.nan


def break_a_pixel(runner, data_batch):
    data_batch['inputs'] = data_batch['inputs'].float()
    data_batch['inputs'][6, 1, 2, 3] = math.inf
    data_batch['data_samples'][6].set_metainfo(dict(img_path='cats/7.png'))


def divide_by_nothing(runner, data_batch):
    runner.model.data_preprocessor.std.zero_()


@pytest.mark.parametrize(
    ('mode', 'spoil', 'cause'),
    [
        (
            *('immediate', raise_the_rate),
            rf"The student's scores .* too large\. {re.escape(LOWER.format(1e10))}",
        ),
        (
            *('immediate', break_the_teacher),
            r"The teacher's head\.fc\.weight is not .*give another model\.teacher_ckpt",
        ),
        (
            *('deferred', break_the_student),
            r'scores are not finite before any update.*model\.student_ckpt, load_from',
        ),
        (
            *('deferred', break_a_pixel),
            r'Image 6 of the batch \(cats/7\.png\) has a pixel of inf\.',
        ),
        (
            *('immediate', divide_by_nothing),
            r'data_preprocessor\.mean and std, where a std of 0',
        ),
    ],
    ids=['rate', 'teacher', 'student', 'pixel', 'std'],
)
def test_the_true_cause_is_named(start, mode, spoil, cause):
    runner = start(mode, interval=1, epochs=1)

    class Spoil(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 0:
                spoil(runner, data_batch)

    runner.register_hook(Spoil())
    assert re.search(cause, stop(runner))


def test_a_plain_classifier_is_guarded_too(make_runner):
    cfg = digits_config('vanilla/resnet8_digits.py')
    runner = make_runner(with_guard(cfg, 'deferred', interval=1))
    poison(runner.model.head.loss_module, step=2)
    message = stop(runner)
    assert 'step 2 (epoch 1): loss = nan. Scores: not recorded.' in message
    assert message.endswith('No checkpoint had been written yet.')


def test_deferred_names_the_first_of_many_bad_steps(start):
    """The weights are nan from step 2 on, and so is everything from step 3 on."""
    runner = start('deferred', epochs=1)
    poison(POISONED['distill'](runner.model), step=2)
    seen = []
    runner.model.student.head.loss_module.register_forward_hook(
        lambda _, args, __: seen.append(args[0].detach())
    )
    message = stop(runner)
    assert runner.iter == 5  # at the end of the epoch
    assert len(seen) == 5 and seen[2].isnan().all()
    assert 'step 2 (epoch 1)' in message
    assert components(message) == dict.fromkeys(NAMED['distill'], 'nan')
    low, high = seen[1].aminmax()
    assert f'student.logits in [{low:.4g}, {high:.4g}]' in message


def save_every_4_steps(cfg):
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=4)


def validate_after_3_steps(cfg):
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=5, val_interval=3)


def only_train(cfg):
    cfg.default_hooks.checkpoint.interval = 5
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)


def average_and_save_nothing(cfg):
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    cfg.custom_hooks = [dict(type='StudentEMAHook', momentum=0.5)]


@pytest.mark.parametrize(
    ('change', 'bad_step', 'stops_at', 'saved'),
    [
        pytest.param(save_every_4_steps, 7, 7, ['iter_4.pth'], id='checkpoint'),
        pytest.param(validate_after_3_steps, 2, 3, [], id='validation'),
        pytest.param(only_train, 3, 5, [], id='next-epoch'),
        pytest.param(average_and_save_nothing, 2, 5, [], id='student-and-average'),
    ],
)
def test_deferred_looks_before_anything_is_made_of_the_weights(
    tmp_path, make_runner, change, bad_step, stops_at, saved
):
    cfg = distill_config(tmp_path)
    change(cfg)
    runner = make_runner(with_guard(cfg, 'deferred'))
    poison(POISONED['student'](runner.model), step=bad_step)
    if change is validate_after_3_steps:
        runner.val_evaluator.evaluate = None  # never reached
    message = stop(runner)
    by_epoch = change is not validate_after_3_steps
    assert (f'step {bad_step} (epoch ' if by_epoch else f'step {bad_step}: ') in message
    assert runner.iter == stops_at
    assert files(runner) == saved
    assert message.endswith(f'{saved[0]}.' if saved else 'had been written yet.')


def test_no_student_of_bad_weights_is_written(start):
    """The last update may spoil them, without a loss that would tell."""
    runner = start(
        'auto',
        epochs=1,
        default_hooks__checkpoint__interval=-1,
        default_hooks__checkpoint__save_last=False,
    )
    weight = runner.model.student.head.fc.weight

    def spoil(grad):
        return grad * math.nan if runner.iter == 5 - 1 else grad

    weight.register_hook(spoil)
    message = stop(runner)
    assert message.startswith('architecture.head.fc.weight is not finite after step 5')
    assert files(runner) == []


def test_losses_may_come_and_go(tmp_path, make_runner):
    cfg = distill_config(tmp_path)
    cfg.custom_hooks = [dict(type='mmrazor.StopDistillHook', stop_epoch=1)]
    runner = make_runner(with_guard(cfg, 'deferred', interval=2))
    poison(POISONED['student'](runner.model), step=8)
    message = stop(runner)
    assert 'step 8 (epoch 2)' in message
    assert components(message) == {'student.loss': 'nan', 'loss': 'nan'}


def test_weights_that_are_not_finite_are_not_saved(start):
    runner = start('immediate', steps=3)

    class Break(Hook):
        def after_train_epoch(self, runner):
            runner.model.student.head.fc.weight.data[1, 2] = math.inf

    runner.register_hook(Break())
    message = stop(runner)
    assert message.startswith(
        'architecture.head.fc.weight is not finite after step 3 although the losses '
        f'were, so an update or a batch was too large for it. {LOWER.format(0.05)}'
    )
    assert files(runner) == []


def test_the_run_goes_on_from_the_last_good_checkpoint(tmp_path, make_runner):
    def runner(name, **options):
        cfg = distill_config(tmp_path, **options)
        return make_runner(with_guard(cfg, 'deferred', steps=3), name)

    stopped = runner('stopped')
    poison(POISONED['distill'](stopped.model), step=4)
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


def test_deferred_reads_nothing_between_logging_points(start):
    runner = start('deferred', interval=4, epochs=1)
    (guard,) = (h for h in runner.hooks if isinstance(h, FiniteLossHook))
    after, quiet = guard.after_train_iter, []

    def watched(*args, **kwargs):
        if runner.iter + 1 == 4:
            with pytest.raises(ReadError), no_reading():
                after(*args, **kwargs)
            return
        with no_reading():
            after(*args, **kwargs)
        quiet.append(runner.iter + 1)

    guard.after_train_iter = watched
    runner.train()
    assert quiet == [1, 2, 3, 5]


def runner_of(model, folder):
    """What the guard asks of a runner."""
    return SimpleNamespace(
        model=model,
        iter=0,
        epoch=0,
        train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop),
        work_dir=str(folder),
        optim_wrapper=SimpleNamespace(get_lr=lambda: dict(lr=[0.1, 0.3])),
        cfg={},
    )


def one_rank(rank, folder, mode, bad_step, saved_step, both):
    """What each of two processes does; writes down how it ended."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    guard = FiniteLossHook(mode=mode, interval=3)
    runner = runner_of(nn.Linear(2, 2), folder)
    text = 'ran to its end'
    try:
        guard.before_train(runner)
        for step in range(6):
            runner.iter = step
            bad = step + 1 == bad_step and rank == 1
            losses = dict(
                loss_a=torch.tensor(math.nan if bad else 1.5), loss_b=torch.tensor(2.0)
            )
            guard.after_train_iter(runner, step, outputs=losses)
            if step + 1 == saved_step:
                guard.before_checkpoint(runner)
                if rank == 0:  # where the runner saves
                    weights = runner.model.state_dict()
                    guard.before_save_checkpoint(runner, dict(state_dict=weights))
    except NonFiniteError as error:
        text = str(error)
    (folder / f'{rank}').write_text(f'{runner.iter + 1}|{text}')
    both.wait(60)
    os._exit(0)  # torch 2.5 may deadlock when it takes a gloo group apart


@pytest.mark.parametrize(
    ('mode', 'bad_step', 'saved_step', 'stops_at'),
    [
        ('immediate', 2, None, 2),
        ('deferred', 4, None, 6),
        ('auto', 4, 5, 5),
        ('deferred', None, 5, 6),
    ],
)
def test_two_ranks_stop_together(tmp_path, mode, bad_step, saved_step, stops_at):
    both = multiprocessing.get_context('fork').Barrier(2)
    settings = (tmp_path, mode, bad_step, saved_step, both)
    run_to_the_end(lambda rank: one_rank(rank, *settings))
    for rank, value in ((0, '1.5 on this rank, not finite on another'), (1, 'nan')):
        step, text = (tmp_path / f'{rank}').read_text().split('|')
        assert int(step) == stops_at
        if bad_step is None:
            assert text == 'ran to its end'
        else:
            assert f'step {bad_step} (epoch 1): loss_a = {value}. Scores' in text
            cause = LOWER.format(0.3) if rank else 'in the message of the rank whose'
            assert cause in text


class Masked(nn.Module):
    """A weight, and buffers of which some are infinite before training."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer('mask', torch.full((2, 2), -math.inf).triu(1))
        self.register_buffer('low', torch.tensor(math.inf))
        self.register_buffer('running_var', torch.tensor([1.0, math.inf]))
        self.register_buffer('short', torch.ones(2).to(torch.float8_e4m3fn))


def change_no_weight(net):
    net.low.fill_(-3)


def mask_more(net):
    net.mask[1, 0] = -math.inf


def spoil_the_mask(net):
    net.mask[0, 1] = math.nan


def spoil_a_weight(net):
    net.layer.bias.data[0] = math.inf


@pytest.mark.parametrize(
    ('change', 'bad'),
    [
        (change_no_weight, None),
        (mask_more, 'mask'),
        (spoil_the_mask, 'mask'),
        (spoil_a_weight, 'layer.bias'),
    ],
)
def test_a_buffer_may_stay_infinite(tmp_path, change, bad):
    net = Masked()
    net.running_var.fill_(1)
    guard = FiniteLossHook()
    runner = runner_of(net, tmp_path)
    guard.before_train(runner)
    change(net)
    try:
        guard.before_save_checkpoint(runner, dict(state_dict=net.state_dict()))
        guard.after_train(runner)
        found = None
    except NonFiniteError as error:
        found = str(error).partition(' is not finite')[0]
    assert found == bad


def test_running_statistics_may_not(tmp_path):
    net, guard = Masked(), FiniteLossHook()
    guard.before_train(runner_of(net, tmp_path))
    with pytest.raises(NonFiniteError, match='^running_var is not'):
        guard.after_train(runner_of(net, tmp_path))


def test_two_ranks_stop_before_bad_weights_are_saved(tmp_path):
    def work(rank):
        wrapper = DistributedDataParallel(nn.Linear(2, 2))
        guard, runner = FiniteLossHook(), runner_of(wrapper, tmp_path)
        guard.before_train(runner)
        guard.before_checkpoint(runner)
        if rank == 1:
            wrapper.module.bias.data[0] = math.nan
        texts = []
        for check in (guard.before_checkpoint, guard.after_train):
            try:
                check(runner)
            except NonFiniteError as error:
                texts.append(str(error).partition(' is not finite')[0])
        return texts

    first, second = two_ranks(work, tmp_path)
    assert first == ['A weight of another rank'] * 2
    assert second == ['bias'] * 2


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(mode='late'), "`default_hooks.finite.mode` = 'late': .*'auto'"),
        (dict(interval=0), '`default_hooks.finite.interval` = 0: .*1 or more'),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        FiniteLossHook(**options)


@pytest.mark.parametrize('outputs', [None, {}, dict(note='no tensor')])
def test_a_step_without_losses_passes(outputs):
    runner = SimpleNamespace(model=nn.Linear(1, 1), iter=0, epoch=0)
    guard = FiniteLossHook(mode='deferred', interval=1)
    guard.before_train(runner)
    guard.after_train_iter(runner, 0, outputs=outputs)
