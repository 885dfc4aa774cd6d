"""What a terminal shows of a run, and what a file gets."""

import io
import re
import sys
import uuid
import warnings
from pathlib import Path
from types import SimpleNamespace

import mmpretrain
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tiny import digits_config, save_teacher

from cakd_mm.engine.hooks.summary_hook import _config
from cakd_mm.engine.launch import build_runner, build_test_runner
from cakd_mm.utils.terminal import is_read_along

LONG = 'a line that is longer than the terminal is wide, and is not broken: /a/path'
# What is written and removed again, and what else is no text.
REMOVED = re.compile(r'[^\n]*(\n\r?\x1b\[1A|\r)\x1b\[2K')
CONTROL = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]|\r')


class Screen(io.StringIO):
    """A terminal of forty columns that keeps all that is written."""

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """What is left to see."""
        return CONTROL.sub('', REMOVED.sub('', self.getvalue()))


@HOOKS.register_module()
class TalkingHook(Hook):
    """Says things in the middle of an epoch."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 0:
            runner.logger.info(LONG)
            print(f'printed, {LONG}')
            warnings.warn(f'warned, {LONG}', stacklevel=1)


@pytest.fixture
def open_screen(monkeypatch):
    """Return what lets a person read along, in the test itself: pytest has its own."""

    def opened() -> Screen:
        found = Screen()
        monkeypatch.setattr(sys, 'stdout', found)
        monkeypatch.setattr(sys, 'stderr', found)
        monkeypatch.setenv('TERM', 'xterm')
        monkeypatch.setenv('COLUMNS', '40')
        monkeypatch.delattr(sys, 'ps1', raising=False)
        # pytest catches warnings otherwise.
        monkeypatch.setattr(
            warnings, 'showwarning', lambda text, *_: print(text, file=sys.stderr)
        )
        return found

    return opened


def run(folder: Path, name: str = 'cakd/demo_digits.py', **options):
    options = dict(default_hooks__logger__interval=2, **options)
    if name.startswith('cakd'):
        options['model__teacher_ckpt'] = str(save_teacher(folder / 'teacher.pth'))
    cfg = digits_config(
        name,
        launcher='none',
        work_dir=str(folder / 'a run'),
        experiment_name=uuid.uuid4().hex,
        **options,
    )
    cfg.custom_hooks = [dict(type='TalkingHook')]
    runner = build_runner(cfg)
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        runner.train()
    return runner


def test_a_terminal(open_screen, tmp_path, monkeypatch):
    screen = open_screen()
    monkeypatch.chdir(tmp_path)
    runner = run(tmp_path)
    text, logs = screen.text, (tmp_path / 'a run').glob('*/*.log')
    lines, log = text.splitlines(), next(logs).read_text()
    for line in (LONG, f'printed, {LONG}', f'warned, {LONG}'):
        assert lines.count(line) == 2  # once in each epoch
    losses = runner.message_hub.get_scalar('train/loss').data[0].reshape(2, 3)
    scores = runner.message_hub.get_scalar('val/accuracy/top1').data[0]
    for epoch, loss, score in zip((1, 2), losses.mean(1), scores, strict=True):
        [line] = (x for x in lines if x.startswith(f'epoch {epoch}/2  loss'))
        assert line.startswith(f'epoch {epoch}/2  loss {loss:.4g} (student ')
        assert re.search(rf'\)  top-1 {score:.2f} %  \d\.\d s$', line)
        assert f'Epoch(val) [{epoch}][1/1]    accuracy/top1: {score:.4f}' in log
        # The line within an epoch was asked for, that at its end says nothing new.
        assert text.count(f'Epoch(train) [{epoch}][2/3]') == 1
        assert f'Epoch(train) [{epoch}][3/3]' not in text
    # The last bar of the first epoch, and that of the validation; none is left.
    drawn = CONTROL.sub('', screen.getvalue())
    assert re.search(r'epoch 1/2 ━+ 3/3 \d:\d\d:\d\d left', drawn)
    assert re.search(r'validation ━+ 1/1 0:00:00 left', drawn)
    assert '━' not in text
    for hidden in ('System environment:', 'Hooks will be', 'Saving checkpoint at 2'):
        assert hidden in log
        assert hidden not in text
    # Nothing hides the cursor, and stdout is again what it was.
    assert '\x1b[?25l' not in screen.getvalue()
    assert sys.stdout is screen
    said_how_to_use_it(text, log)


def test_a_run_by_iterations_has_a_line_for_each_score(open_screen, tmp_path):
    screen = open_screen()
    cfg = digits_config(
        'vanilla/resnet8_digits.py',
        images=40,
        launcher='none',
        work_dir=str(tmp_path / 'run'),
        experiment_name=uuid.uuid4().hex,
        default_hooks__logger__interval=1,
        default_hooks__checkpoint__by_epoch=False,
    )
    loop = dict(type='ResumableIterLoop', max_iters=5, val_begin=2, val_interval=2)
    cfg.train_cfg, cfg.param_scheduler = loop, None
    runner = build_runner(cfg)
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    scores = runner.message_hub.get_scalar('val/accuracy/top1').data[0]
    for step, score in zip((2, 4, 5), scores, strict=True):
        loss = losses[step - 2 : step].mean()
        start = rf'^iteration {step}/5  loss {re.escape(f"{loss:.4g}")}'
        assert re.search(rf'{start}.*  top-1 {score:.2f} %  ', screen.text, re.M)
    shown = re.findall(r'Iter\(train\) \[(\d)/5\]', screen.text)
    assert shown == ['1', '3']
    assert 'Saving checkpoint' not in screen.text
    assert 'length   5 iterations\n' in screen.text
    assert 'resnet8_digits.py, 5 iterations in ' in screen.text


def said_how_to_use_it(text: str, log: str) -> None:
    first = text.index('Training ')
    assert first < text.index('epoch 1/2')
    assert '  student  CIFARResNet, 78,042 parameters\n' in text
    assert '  losses   loss_cakd (CAKDLogitLoss)\n' in text
    assert '  images   96 for training, 64 for validation\n' in text
    last = text[text.index('Trained ') :]
    assert last in log.replace('\r', '')
    assert "  score it   cakd-mm test 'a run/student.py' 'a run/student.pth'\n" in last
    [call] = re.findall(r'in Python  (.*)', last)
    student = eval(call, dict(mmpretrain=mmpretrain))
    weights = torch.load('a run/student.pth', weights_only=False)['state_dict']
    found = student.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert last.endswith("  curves     cakd-mm plot 'a run'\n")


def test_a_test_in_a_terminal_shows_the_score(open_screen, tmp_path, monkeypatch):
    screen = open_screen()
    monkeypatch.chdir(tmp_path)
    runner = run(tmp_path, 'vanilla/resnet8_digits.py', epochs=1)
    score = runner.message_hub.get_scalar('val/accuracy/top1').current()
    [call] = re.findall(r'score it   cakd-mm test (.*)', screen.text)
    assert call == "'a run/resnet8_digits.py' 'a run/epoch_1.pth'"
    option = "--cfg-options 'model.teacher_ckpt=a run/epoch_1.pth'"
    assert f'  teach with {option}\n' in screen.text
    # `cakd-mm plot` refuses a run that distils nothing.
    assert "  curves     cakd-mm report 'a run'\n" in screen.text
    cfg = digits_config(
        'vanilla/resnet8_digits.py',
        launcher='none',
        work_dir=str(tmp_path / 'test'),
        experiment_name=uuid.uuid4().hex,
        default_hooks__progress=None,
    )
    del cfg.default_hooks['progress']
    screen = open_screen()
    build_test_runner(cfg, 'a run/epoch_1.pth').test()
    assert f'Test on 64 images:  top-1 {score:.2f} %\n' in screen.text
    assert 'Epoch(test)' not in screen.text


def test_a_file_gets_plain_lines(tmp_path, capsys):
    run(tmp_path, 'vanilla/resnet8_digits.py', epochs=1)
    text = capsys.readouterr().out
    assert ' - mmengine - ' in text
    assert 'System environment:' in text
    assert 'Epoch(train) [1][2/3]' in text
    assert 'Trained ' in text
    assert '━' not in text
    assert 'epoch 1/1' not in text


def test_whether_a_person_reads_along(open_screen, monkeypatch):
    open_screen()
    assert is_read_along()
    for name in ('dumb', 'unknown'):
        monkeypatch.setenv('TERM', name)
        assert not is_read_along()
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setattr(sys, 'ps1', '>>> ', raising=False)
    assert not is_read_along()


def test_the_config_is_called_what_the_person_called_it(tmp_path):
    """In the work dir ``student.py`` becomes ``student_run.py``."""
    runner = SimpleNamespace(cfg=SimpleNamespace(filename=f'{tmp_path}/student_run.py'))
    assert _config(runner) == f'{tmp_path}/student.py'
    Path(runner.cfg.filename).touch()
    assert _config(runner) == runner.cfg.filename
