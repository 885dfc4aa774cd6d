import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import CheckpointHook, Hook
from tiny import digits_config

from cakd_mm.engine import launch
from cakd_mm.engine.hooks import NonFiniteError, WholeCheckpointHook
from cakd_mm.engine.hooks.whole_checkpoint_hook import OUTDATED
from cakd_mm.utils.newest_checkpoint import newest_checkpoint


def config(epochs=3, **hook):
    """A plain net of three epochs of one step, scored after each."""
    cfg = digits_config('vanilla/resnet8_digits.py', images=32, epochs=epochs)
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=1, **hook)
    return cfg


@pytest.fixture
def run(make_runner):
    """Return a runner; with ``scores``, validation finds these."""

    def make(cfg, scores=()):
        runner = make_runner(cfg)
        if scores:
            given = iter(scores)
            val = type(runner.val_loop)
            found = dict.fromkeys(['accuracy/top1', 'b'])

            def score(loop):
                loop.runner.call_hook('before_val')
                loop.runner.call_hook('before_val_epoch')
                metrics = dict.fromkeys(found, next(given))
                loop.runner.call_hook('after_val_epoch', metrics=metrics)
                loop.runner.call_hook('after_val')
                return metrics

            runner._val_loop.__class__ = type('Given', (val,), dict(run=score))
        return runner

    return make


def names(folder):
    return sorted(path.name for path in Path(folder).glob('*.pth*'))


@pytest.fixture
def moments(monkeypatch):
    """The checkpoints that lie there, whole, at each removal and renaming."""
    found = []
    for name in ('replace', 'remove'):
        function = getattr(os, name)

        def note(*args, function=function):
            folder = Path(args[-1]).parent
            newest = newest_checkpoint(folder, {}).path
            found.append((Path(args[-1]).name, newest and Path(newest).name))
            return function(*args)

        monkeypatch.setattr(os, name, note)
    return found


def test_an_old_checkpoint_goes_after_the_new_one_is_there(run, moments):
    runner = run(config())
    runner.train()
    assert moments[:5] == [
        ('epoch_1.pth', None),
        ('last_checkpoint', 'epoch_1.pth'),
        ('epoch_2.pth', 'epoch_1.pth'),
        ('last_checkpoint', 'epoch_2.pth'),
        ('epoch_1.pth', 'epoch_2.pth'),
    ]
    folder = Path(runner.work_dir)
    assert names(folder) == ['epoch_3.pth']
    assert (folder / 'last_checkpoint').read_text() == str(folder / 'epoch_3.pth')


@pytest.mark.parametrize('keep', [2, -1])
def test_as_many_as_asked_for_are_kept(run, keep):
    cfg = config(by_epoch=False, filename_tmpl='at_{}.pth')
    cfg.default_hooks.checkpoint.max_keep_ckpts = keep
    runner = run(cfg)
    # What a hook on every rank sees before each of them.
    seen = []

    class Notes(Hook):
        def before_checkpoint(self, runner):
            seen.append((runner.iter, f'at_{runner.iter + 1}.pth'))
            assert seen[-1][1] not in names(runner.work_dir)

    runner.register_hook(Notes())
    runner.train()
    assert seen == [(0, 'at_1.pth'), (1, 'at_2.pth'), (2, 'at_3.pth')]
    kept = ['at_1.pth', 'at_2.pth', 'at_3.pth']
    assert names(runner.work_dir) == kept[-keep:] if keep > 0 else kept


def test_the_best_goes_after_a_better_one_is_there(run, moments):
    scores = [50.0, 60.0, 55.0]
    runner = run(config(save_best='accuracy/top1'), scores)
    best = 'best_accuracy_top1_epoch_{}.pth'
    seen = []

    class Notes(Hook):
        def before_checkpoint(self, runner):
            seen.append(Path(runner.work_dir, best.format(2)).exists())

    runner.register_hook(Notes())
    runner.train()
    # Twice an epoch, once more where the best changes, and so before it is there.
    assert seen == [False] * 5 + [True] * 3
    order = [name for name, _ in moments]
    removed = len(order) - 1 - order[::-1].index(best.format(1))
    assert order.index(best.format(2)) < removed
    assert order[removed - 2 : removed] == ['epoch_2.pth', 'last_checkpoint']
    assert names(runner.work_dir) == [best.format(2), 'epoch_3.pth']
    saved = torch.load(Path(runner.work_dir, 'epoch_3.pth'), weights_only=False)
    info = saved['message_hub']['runtime_info']
    assert info['best_ckpt'].endswith(best.format(2))
    assert info[OUTDATED] == ['epoch_2.pth']  # which a resumed run would remove


def test_several_best(run):
    runner = run(config(save_best=['accuracy/top1', 'b'], rule='less'), [3.0, 2.0, 9.0])
    runner.train()
    best = ['best_accuracy_top1_epoch_2.pth', 'best_b_epoch_2.pth']
    assert names(runner.work_dir) == [*best, 'epoch_3.pth']


def test_a_refused_checkpoint_costs_no_other(run):
    runner = run(config(save_best='accuracy/top1'), [50.0, 60.0, 70.0])
    hook = type(runner.hooks[0])  # some hook of the run, at the first place

    def spoil(self, runner):
        if runner.epoch == 1:
            next(runner.model.parameters()).data.fill_(float('nan'))

    runner.hooks[0].__class__ = type('Spoils', (hook,), dict(after_train_epoch=spoil))
    with pytest.raises(
        NonFiniteError, match=r'last good checkpoint is .*/epoch_1\.pth'
    ):
        runner.train()
    best = 'best_accuracy_top1_epoch_1.pth'
    assert names(runner.work_dir) == [best, 'epoch_1.pth']


def test_what_a_kill_has_left_is_removed(run):
    """It came between the writing of a checkpoint and the removal of others."""
    cfg = config(epochs=2)
    runner = run(cfg.copy())
    runner.train()
    folder = Path(runner.work_dir)
    left = ('epoch_1.pth', 'epoch_9.pth.part', 'last_checkpoint.part')
    for name in left:
        (folder / name).write_bytes(b'')
    (folder / 'mine.part').touch()
    cfg.train_cfg.max_epochs, cfg.resume = 3, True
    cfg.load_from = str(folder / 'epoch_2.pth')
    run(cfg).train()
    assert names(folder) == ['epoch_3.pth']
    parts = [path.name for path in folder.glob('*.part')]
    assert parts == ['mine.part']


def test_other_folders_are_left_alone(run, tmp_path):
    """A run that goes on elsewhere removes nothing where its checkpoint came from."""
    cfg = config(epochs=2, save_best='accuracy/top1')
    runner = run(cfg.copy(), [50.0, 60.0])
    runner.train()
    before = tmp_path / 'before'
    Path(runner.work_dir).rename(before)
    (before / 'epoch_1.pth').touch()
    lying = names(before)
    cfg.train_cfg.max_epochs, cfg.resume = 3, True
    cfg.load_from = str(before / 'epoch_2.pth')
    run(cfg, [55.0, 70.0]).train()
    assert names(before) == lying


@pytest.mark.parametrize('given', ['CheckpointHook', 'mmengine.CheckpointHook', None])
def test_every_run_of_the_tools_gets_it(tmp_path, given):
    cfg = config()
    cfg.work_dir = str(tmp_path)
    if given is None:
        del cfg.default_hooks.checkpoint
    else:
        cfg.default_hooks.checkpoint.type = given
    hooks = launch.build_runner(cfg).hooks
    [hook] = [hook for hook in hooks if isinstance(hook, CheckpointHook)]
    assert type(hook) is WholeCheckpointHook


def test_a_checkpoint_from_outside_removes_no_other_files(run, tmp_path):
    """It says which files are to be removed, and may say anything."""
    (tmp_path / 'other').mkdir()
    others = [tmp_path / 'other/epoch_1.pth', tmp_path / 'other']
    named = [*map(str, others), '../other', '..', '.', '', 'labels.csv', 'epoch_1.pth']
    runner = run(config(epochs=1))
    for file in ('labels.csv', 'epoch_1.pth'):
        Path(runner.work_dir, file).write_text('')
    others[0].write_text('')
    runner.message_hub.update_info(OUTDATED, named)
    hook = next(x for x in runner.hooks if isinstance(x, WholeCheckpointHook))
    hook.before_train(runner)
    assert others[0].is_file() and Path(runner.work_dir, 'labels.csv').is_file()
    assert not Path(runner.work_dir, 'epoch_1.pth').exists()


@pytest.mark.parametrize('given', ['CheckpointHook', 'WholeCheckpointHook'])
def test_a_misspelt_argument_costs_no_epoch(tmp_path, given):
    cfg = config(type=given, intervall=2)
    cfg.work_dir = str(tmp_path)
    runner = launch.build_runner(cfg)
    expected = r"`default_hooks\.checkpoint\.intervall` = 2: .*'interval'"
    with pytest.raises(TypeError, match=expected):
        runner.train()
    assert runner.iter == 0
