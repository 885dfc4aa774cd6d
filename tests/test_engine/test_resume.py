"""Which checkpoint a run goes on from, in the tool and through the Python API."""

import logging
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from ranks import two_ranks
from tiny import CONFIGS, digits_config
from tools_inside import run_tool

from cakd_mm.engine import launch
from cakd_mm.engine.launch.resume import choose_checkpoint
from cakd_mm.utils.agreement import exchange

META = dict(epoch=1, iter=1)
STATE = dict(
    state_dict=dict(weight=torch.zeros(500)), optimizer={}, meta=META, message_hub={}
)


def save(path, when, **content):
    torch.save(dict(STATE, **content), path)
    os.utime(path, (when, when))
    return str(path)


@pytest.fixture
def cfg(tmp_path):
    """A config that is to go on, whose work dir has two checkpoints."""
    for number in (1, 2):
        save(tmp_path / f'epoch_{number}.pth', number)
    return Config(dict(work_dir=str(tmp_path), resume=True, load_from=None))


def test_the_newest_is_chosen_and_named(cfg, tmp_path):
    newest = str(tmp_path / 'epoch_2.pth')
    [(level, text)] = choose_checkpoint(cfg)
    assert level == logging.INFO
    assert text == f'Going on from {newest}, the newest whole checkpoint.'
    assert (cfg.load_from, cfg.resume) == (newest, True)


@pytest.mark.parametrize('end', [0, 100, -1])
def test_a_broken_one_is_passed_over_and_named(cfg, tmp_path, end):
    newest = tmp_path / 'epoch_2.pth'
    newest.write_bytes(newest.read_bytes()[:end])
    [(level, warning), (_, text)] = choose_checkpoint(cfg)
    assert level == logging.WARNING
    assert warning.startswith(f'`--resume` = {str(newest)!r}: The file cannot be read')
    assert warning.endswith('It is passed over.')
    assert str(tmp_path / 'epoch_1.pth') == cfg.load_from
    assert cfg.load_from in text


@pytest.mark.parametrize('lying', [(), ('epoch_1.pth', 'epoch_2.pth')])
def test_without_a_whole_one_it_begins_from_scratch_and_says_so(cfg, tmp_path, lying):
    for number in (1, 2):
        path = tmp_path / f'epoch_{number}.pth'
        path.unlink()
        if path.name in lying:
            path.write_bytes(b'PK\x03\x04 cut')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    *warnings, (level, text) = choose_checkpoint(cfg)
    assert len(warnings) == len(lying)
    assert level == (logging.WARNING if lying else logging.INFO)
    assert text == (
        f'{tmp_path} has no whole checkpoint: training begins from scratch.'
    )
    assert (cfg.load_from, cfg.resume) == (None, False)


def test_what_may_be_of_use_is_not_trained_over(cfg, tmp_path):
    """A file that is refused, for what it holds, is not merely cut."""
    for number in (1, 2):
        (tmp_path / f'epoch_{number}.pth').write_bytes(b'no checkpoint')
    with pytest.raises(ValueError, match='No checkpoint there can be read') as caught:
        choose_checkpoint(cfg)
    assert str(tmp_path / 'epoch_2.pth') in str(caught.value)
    save(tmp_path / 'epoch_1.pth', 1)
    choose_checkpoint(cfg)
    assert cfg.load_from == str(tmp_path / 'epoch_1.pth')


@pytest.mark.parametrize(
    ('name', 'value', 'lacking'),
    [
        ('optimizer', None, r'the state of the optimizer .*save_optimizer=True'),
        ('meta', dict(epoch=1), 'the numbers of epoch and iteration'),
        ('meta', dict(epoch='1', iter=1), 'the numbers of epoch and iteration'),
        ('meta', [1], 'the numbers of epoch and iteration'),
        ('message_hub', 5, 'the message hub'),
    ],
)
def test_a_run_does_not_go_on_from_weights_alone(cfg, tmp_path, name, value, lacking):
    """Nor does it begin anew where a run has left no more than them."""
    for number in (1, 2):
        path = save(tmp_path / f'epoch_{number}.pth', number, **{name: value})
    with pytest.raises(ValueError, match=f'It lacks {lacking}'):
        launch.check_checkpoints(Config(dict(resume=True, load_from=path)))
    launch.check_checkpoints(Config(dict(resume=False, load_from=path)))
    with pytest.raises(ValueError, match=f'It lacks {lacking}'):
        choose_checkpoint(cfg)


@pytest.mark.parametrize('content', [None, b'none'])
def test_a_remedy_is_that_of_what_was_written(tmp_path, content):
    path = tmp_path / 'x.pth'
    if content:
        path.write_bytes(content)
    for resume, remedy in (
        (True, 'Name an earlier check'),
        (False, 'Correct the path'),
    ):
        cfg = Config(dict(load_from=str(path), resume=resume))
        with pytest.raises((FileNotFoundError, ValueError), match=f'{remedy}.*$'):
            launch.check_checkpoints(cfg)


@pytest.mark.parametrize('resume', [False, True])
def test_what_is_named_is_left_alone(cfg, tmp_path, resume):
    cfg.resume, cfg.load_from = resume, 'given.pth' if resume else None
    assert choose_checkpoint(cfg) == []
    assert cfg.load_from == ('given.pth' if resume else None)


def test_each_rank_goes_on_from_the_first_ones_file_in_its_own_work_dir(tmp_path):
    """Nodes may share no disk; then a file that one has not stops them all."""

    def work(rank: int) -> list:
        here = tmp_path / f'node{rank}'
        here.mkdir()
        found = []

        def choose() -> None:
            cfg = Config(dict(work_dir=str(here), resume=True, load_from=None))
            try:
                _, *notes = choose_checkpoint(cfg)
                found.append((cfg.load_from, cfg.resume, notes))
            except ValueError as error:
                found.append(str(error))
            exchange(None)

        choose()
        if rank == 1:
            save(here / 'epoch_1.pth', 1)
        choose()
        if rank == 0:
            save(here / 'epoch_1.pth', 1)
            save(here / 'epoch_2.pth', 2)
        choose()
        if rank == 1:
            save(here / 'epoch_2.pth', 2)
            save(here / 'epoch_3.pth', 3)
            save(here / 'iter_4.pth', 4)  # Of what epoch is it?
        choose()
        if rank == 0:
            save(here / 'epoch_3.pth', 1)  # It has it, and another one is newer.
        choose()
        named = Config(dict(resume=True, load_from=str(here / f'epoch_{5 - rank}.pth')))
        if rank == 1:
            save(here / 'epoch_4.pth', 4)
        for named.resume in (True, False):
            try:
                found.append(launch.check_checkpoints(named))
            except ValueError as error:
                found.append(str(error))
        return found

    differ = 'The ranks do not find the same to go on from: rank 0 on '
    remedy = 'Let the nodes share the work dir, or copy the checkpoint to each.'
    host = os.uname().nodename
    for rank, found in enumerate(two_ranks(work, tmp_path)):
        here = tmp_path / f'node{rank}'
        assert found[0] == (None, False, [])
        start, file = f"`--resume` = '{here}': ", tmp_path / 'node1/epoch_1.pth'
        assert found[1] == (
            f'{start}{differ}{host}: no whole checkpoint; '
            f'rank 1 on {host}: {file}. {remedy}'
        )
        start = f"`--resume` = '{here}/epoch_2.pth': "
        of = [tmp_path / f'node{x}' for x in range(2)]
        lacks = f'rank 1 on {host}: no file {of[1]}/epoch_2.pth. {remedy}'
        assert found[2] == f'{start}{differ}{host}: {of[0]}/epoch_2.pth; {lacks}'
        warning = 'Rank 1 has epoch_3.pth, which rank 0 has not. To go on from that, '
        warning = f'{start}{warning}copy it into the work dir of each node.'
        notes = [(logging.WARNING, warning)]
        assert found[3] == (f'{here}/epoch_2.pth', True, notes)
        assert found[4] == (f'{here}/epoch_2.pth', True, [])
        start = f"`--resume` = '{here}/epoch_{5 - rank}.pth': "
        has = f'rank 1 on {host}: {of[1]}/epoch_4.pth. {remedy}'
        assert found[5] == f'{start}{differ}{host}: no file {of[0]}/epoch_5.pth; {has}'
        assert found[6] is None  # The hook sends the weights.


def test_a_changed_schedule_is_told_of_the_newest_too(cfg, tmp_path):
    text = "param_scheduler = [dict(type='MultiStepLR')]"
    save(tmp_path / 'epoch_3.pth', 3, meta=dict(META, cfg=text))
    cfg.param_scheduler = []
    _, (level, told) = choose_checkpoint(cfg)
    assert level == logging.WARNING
    assert told.startswith('`param_scheduler` = ')


def test_the_tool_goes_on_after_a_kill_at_last_checkpoint(tmp_path, monkeypatch):
    """mmengine writes that file in place, so that a kill left it empty."""
    monkeypatch.setenv('LOCAL_RANK', '0')

    def train(name, epochs, *flags):
        run_tool(
            monkeypatch,
            'train.py',
            *(CONFIGS / 'vanilla/resnet8_digits.py', '--work-dir', tmp_path / name),
            *(*flags, '--cfg-options', f'train_cfg.max_epochs={epochs}'),
            *('train_dataloader.dataset.indices=64', 'train_dataloader.batch_size=32'),
            f'experiment_name={name}{epochs}',
        )
        return tmp_path / name

    whole = train('whole', 3)
    killed = train('killed', 2)
    (killed / 'last_checkpoint').write_text('')
    (killed / 'epoch_3.pth').write_bytes((killed / 'epoch_2.pth').read_bytes()[:-9])
    train('killed', 3, '--resume')
    first, second = (
        torch.load(run / 'epoch_3.pth', weights_only=False)['state_dict']
        for run in (whole, killed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    log = sorted(killed.glob('*/*.log'))[-1].read_text()
    assert f'Going on from {killed / "epoch_2.pth"}, the newest whole' in log
    assert f'{str(killed / "epoch_3.pth")!r}: The file cannot be read' in log
    assert 'resumed epoch: 2' in log


def test_through_the_api(tmp_path):
    cfg = digits_config('vanilla/resnet8_digits.py', images=32, epochs=1)
    cfg.work_dir, cfg.resume = str(tmp_path / 'run'), True
    launch.build_runner(cfg).train()
    assert not cfg.resume
    cfg.resume, cfg.experiment_name = True, 'through-the-api'
    cfg.train_cfg.max_epochs = 2
    runner = launch.build_runner(cfg)
    assert Path(cfg.load_from).name == 'epoch_1.pth'
    runner.load_or_resume()
    assert runner.epoch == 1
