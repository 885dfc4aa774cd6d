from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import LOG_PROCESSORS
from mmengine.runner import LogProcessor
from tiny import distill_config

from cakd_mm.engine.hooks import BoundedHistoryHook
from cakd_mm.engine.hooks.bounded_history_hook import UNBOUNDED

STEPS, EPOCHS = 3, 4


class Lines(Hook):
    """Keeps what LoggerHook hands to the visualizer, but for clocks."""

    def before_train(self, runner):
        self.lines = []
        genuine = runner.visualizer.add_scalars

        def add_scalars(tag, **kwargs):
            self.lines.append({k: v for k, v in tag.items() if 'time' not in k})
            return genuine(tag, **kwargs)

        runner.visualizer.add_scalars = add_scalars


@LOG_PROCESSORS.register_module()
class OwnLogProcessor(LogProcessor):
    """One of which nobody knows what it needs."""


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a run of four epochs of three steps, with or without the hook."""

    def build(at_least=None, processor=None, work_dir='run', **options):
        options = dict(train_dataloader__batch_size=4) | options
        cfg = distill_config(tmp_path, images=4 * STEPS, epochs=EPOCHS, **options)
        cfg.default_hooks.pop('extract')
        cfg.default_hooks.pop('history', None)
        cfg.default_hooks.logger.interval = 1
        cfg.log_processor = dict(window_size=2, **(processor or {}))
        if at_least is not None:
            cfg.default_hooks.history = dict(
                type='BoundedHistoryHook', at_least=at_least
            )
        runner = make_runner(cfg, work_dir)
        runner.lines = Lines()
        runner.register_hook(runner.lines)
        return runner

    return build


def lengths(scalars):
    return {name: len(history.data[0]) for name, history in scalars.items()}


def custom(*entries):
    return dict(custom_cfg=[dict(method_name='mean', **entry) for entry in entries])


PROCESSORS = {
    'numbers': custom(dict(data_src='loss', window_size=7, log_name='seven')),
    'windows': custom(
        dict(data_src='loss', window_size='global', log_name='of_all'),
        dict(data_src='distill.loss_cakd', window_size='epoch', log_name='of_epoch'),
        dict(data_src='student.loss', log_name='no_window'),
    ),
    'hierarchy': dict(
        log_with_hierarchy=True,
        **custom(dict(data_src='loss', window_size='global', log_name='of_all')),
    ),
    'own': dict(type='OwnLogProcessor'),
}
# How many values are kept: of the loss, of the student's, and of the distillation's.
KEPT = {
    'numbers': (7, 7, 7),
    'windows': (12, 12, 3),
    'hierarchy': (12, 2, 2),
    'own': (12, 12, 12),
}


@pytest.mark.parametrize('kind', PROCESSORS)
def test_every_logged_number_is_that_of_the_whole_history(start, kind):
    unbounded = start(None, PROCESSORS[kind], 'unbounded')
    unbounded.train()
    bounded = start(1, PROCESSORS[kind], 'bounded')
    bounded.train()
    assert len(bounded.lines.lines) == STEPS * EPOCHS + EPOCHS
    assert bounded.lines.lines == unbounded.lines.lines
    found = lengths(bounded.message_hub.log_scalars)
    names = ('loss', 'student.loss', 'distill.loss_cakd')
    assert tuple(found[f'train/{name}'] for name in names) == KEPT[kind]
    assert lengths(unbounded.message_hub.log_scalars)['train/loss'] == STEPS * EPOCHS


def test_the_time_of_a_validation_is_that_of_all_its_steps(start):
    runner = start(1, val_dataloader__batch_size=8)  # 64 images: 8 steps
    runner.train()
    assert len(runner.val_dataloader) == 8
    # mmengine takes the mean over one more than there are steps.
    assert lengths(runner.message_hub.log_scalars)['val/time'] == 9


def test_a_scalar_that_comes_late_is_bounded_too():
    runner = fake(dict(loss=8))
    hook = BoundedHistoryHook(at_least=3)
    hook.before_train(runner)
    hub = runner.message_hub
    for step in range(8):
        if step >= 2:
            hub.update_scalar('train/late', step)
        hub.update_scalar('test/time', step)
        hook.after_train_iter(runner, step)
    assert hub.get_scalar('train/late').data[0].tolist() == [5, 6, 7]
    assert hub.get_scalar('test/time').data[0].tolist() == list(range(8))


def fake(histories, window_size=2):
    """A runner with a log processor, no validation, and histories of these lengths."""
    hub = MessageHub.get_instance('history')
    for name, length in histories.items():
        for value in range(length):
            hub.update_scalar(f'train/{name}', value)
    return SimpleNamespace(
        message_hub=hub,
        log_processor=LogProcessor(window_size=window_size),
        val_loop=None,
        train_loop=None,
    )


def test_a_history_that_somebody_else_keeps_short_stays_short():
    runner = fake(dict(short=2))
    short = runner.message_hub.get_scalar('train/short')
    short.max_length = 2
    hook = BoundedHistoryHook(at_least=3)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    assert short.max_length == 2
    state = dict(message_hub=runner.message_hub.state_dict())
    hook.before_save_checkpoint(runner, state)
    assert state['message_hub']['log_scalars']['train/short'].max_length == 2


@pytest.mark.parametrize('window_size', [0, -3])
def test_windows_that_mean_the_whole_history(window_size):
    runner = fake(dict(loss=8), window_size)
    hook = BoundedHistoryHook(at_least=3)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    assert runner.message_hub.get_scalar('train/loss').max_length == UNBOUNDED


def test_an_epoch_has_no_length_in_a_loop_of_steps():
    runner = fake(dict(loss=8, lr=8))
    entry = dict(data_src='loss', method_name='mean', window_size='epoch')
    runner.log_processor = LogProcessor(custom_cfg=[entry])
    hook = BoundedHistoryHook(at_least=3)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    assert runner.message_hub.get_scalar('train/loss').max_length == UNBOUNDED
    assert runner.message_hub.get_scalar('train/lr').max_length == 10


def test_a_checkpoint_is_small_and_does_not_remember_the_bound(start, tmp_path):
    runner = start(1)
    runner.train()
    path = tmp_path / 'run' / f'epoch_{EPOCHS}.pth'
    saved = torch.load(path, weights_only=False)['message_hub']['log_scalars']
    assert lengths(saved)['train/loss'] == 2
    assert {history.max_length for history in saved.values()} == {UNBOUNDED}
    live = runner.message_hub.get_scalar('train/loss')
    assert live.max_length == 2  # saving has not touched it


@pytest.mark.parametrize(('first', 'second'), [(None, 1), (1, None)])
def test_a_resumed_run_logs_what_the_uninterrupted_one_does(
    start, tmp_path, first, second
):
    whole = start(None, work_dir='whole')
    whole.train()
    start(first, work_dir='parts').train()
    resumed = start(
        second,
        work_dir='parts',
        resume=True,
        load_from=str(tmp_path / 'parts' / 'epoch_2.pth'),
    )
    resumed.train()
    rest = resumed.lines.lines
    # The epoch it goes on from is scored once more.
    assert len(rest) == 1 + (STEPS + 1) * 2
    assert rest == whole.lines.lines[-len(rest) :]
    kept = lengths(resumed.message_hub.log_scalars)['train/loss']
    before = 2 if first else 2 * STEPS
    assert kept == (2 if second else before + 2 * STEPS)


def test_what_it_refuses():
    with pytest.raises(ValueError, match='default_hooks.history.at_least'):
        BoundedHistoryHook(at_least=0)
