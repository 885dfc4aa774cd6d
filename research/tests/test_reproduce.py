"""A table undisturbed, and one that was killed three times: the same numbers."""

import argparse
import fcntl
import json
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import sys
import time
import traceback
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import CONFIGS

from cakd_mm.visualization.history import logged_lines
from research import plan, reproduce, runs
from research.reproduce import Outcome, command_of, main, name_of, parse_args, select

TOOL = CONFIGS.parent / 'tools' / 'reproduce.py'
TRAIN = 'tools/train.py'
WORDS = ['--table', 'digits', '--methods', 'CAKD logit', '--epochs', '2']
WORDS += ['--seeds', '1', '--jobs', '2', '--out', 'results']
NAME = 'table_digits_CAKD-logit_2e_1s'
TEACHER, STUDENT = 'resnet20_digits_2e_seed0', 'resnet8_digits_30e_2e_seed0'
CAKD = 'digits_logit_2e_seed0'
RUNS = {TEACHER, STUDENT, CAKD}


@pytest.fixture(scope='module', autouse=True)
def _short_runs():
    """Let every run have two steps an epoch, because its start takes longer."""
    length_options = plan.length_options

    def shorter(*arguments):
        sizes = [f'{part}_dataloader.dataset.indices=128' for part in ('train', 'val')]
        return [*length_options(*arguments), *sizes]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, 'length_options', shorter)
        yield


class Forked:
    """What ``subprocess.Popen`` makes of a command of Python, which imports nothing.

    ``research/tests/test_runs.py`` has the command and what it is given.
    """

    def __init__(self, command, stdout, stderr, env, pass_fds, preexec_fn):
        self.pid, self.returncode = os.fork(), None
        if self.pid == 0:
            code = 1
            try:
                preexec_fn()
                os.environ.update(env)
                sys.stdout = sys.stderr = os.fdopen(stdout.fileno(), 'a', buffering=1)
                sys.argv = command[command.index(str(CONFIGS.parent / TRAIN)) :]
                runpy.run_path(sys.argv[0], run_name='__main__')
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def poll(self, options=os.WNOHANG):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self):
        return self.poll(0)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


def start(folder, dies_at=None):
    """Run the command in a folder; as a fork, because importing takes longer.

    It kills itself when the file ``dies_at`` is about to take its place.
    """

    def replace(source, target, genuine=os.replace):
        if Path(target) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        genuine(source, target)

    def run():
        os.replace = replace
        runs.subprocess = SimpleNamespace(Popen=Forked, STDOUT=None)
        os.chdir(folder)
        sys.stdout = sys.stderr = (folder / 'log').open('a', buffering=1)
        sys.argv = [str(TOOL), *WORDS]
        runpy.run_path(str(TOOL), run_name='__main__')

    process = multiprocessing.get_context('fork').Process(target=run)
    process.start()
    return process


def finish(process, folder):
    process.join(600)
    assert process.exitcode == 0, (folder / 'log').read_text()


def runs_of(folder):
    return folder / 'work_dirs' / 'reproduce' / 'resident'


def numbers(folder):
    content = json.loads((folder / 'results' / f'{NAME}.json').read_text())
    [pair] = content['pairs']
    rows = {name: (row['scores'], row['curves']) for name, row in pair['rows'].items()}
    return pair['teacher']['top1'], rows


def weights(folder, name):
    path = runs_of(folder) / name / 'epoch_2.pth'
    return torch.load(path, weights_only=False)['state_dict']


def next_epoch(run):
    """Where a killed run has to go on: after its newest checkpoint that is whole."""
    with (run / 'lock').open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held until its process is dead, too
        whole = [path for path in run.glob('epoch_*.pth') if zipfile.is_zipfile(path)]
    return 1 + max((int(path.stem.rpartition('_')[2]) for path in whole), default=0)


@pytest.fixture(scope='module')
def tables(tmp_path_factory):
    """The whole table, the one that was killed, and where its runs went on."""
    whole, killed = (tmp_path_factory.mktemp(name) for name in ('whole', 'killed'))
    finish(start(whole), whole)
    # The plain student has nothing to do with the others: not trained again.
    shutil.copytree(runs_of(whole) / STUDENT, runs_of(killed) / STUDENT)
    went_on = {}
    for name in (TEACHER, CAKD):
        process = start(killed)
        run = runs_of(killed) / name
        deadline = time.monotonic() + 300
        while not (run / 'epoch_1.pth').is_file():
            assert process.is_alive(), (killed / 'log').read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (run / 'result.json').is_file()
        went_on[name] = next_epoch(run)
    result = Path('work_dirs/reproduce/resident', CAKD, 'result.json')
    process = start(killed, result)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL, (killed / 'log').read_text()
    assert not (killed / result).is_file()
    finish(start(killed), killed)
    return whole, killed, went_on


def test_a_table_killed_three_times_has_the_same_numbers(tables):
    whole, killed, _ = tables
    assert numbers(killed) == numbers(whole)
    for name in RUNS - {STUDENT}:
        expected, found = weights(whole, name), weights(killed, name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected), name


def test_it_was_killed_in_the_middle_and_repeated_nothing(tables):
    _, killed, went_on = tables
    assert {run.parent.name for run in runs_of(killed).glob('*/result.json')} == RUNS
    for name in (TEACHER, CAKD):
        run = runs_of(killed) / name
        starts = json.loads((run / 'result.json').read_text())['starts']
        assert len(starts) == 2 + (name == CAKD)
        assert not [*run.glob('*.part')]
        logs = sorted(run.glob('*/*/scalars.json'))
        lines = [logged_lines(path.read_text()) for path in logs]
        epochs = [[x['epoch'] for x in start if 'epoch' in x] for start in lines]
        assert [start[0] for start in epochs if start] == [1, went_on[name]], name
        log = (killed / 'log').read_text()
        assert log.count(f'{name}: ') == 1  # said once, when it ended
    assert f'{STUDENT}: ' not in log


def test_the_page_is_complete_and_says_that_it_is_scaled(tables):
    for folder in tables[:2]:
        text = (folder / 'results' / f'{NAME}.md').read_text()
        assert text.startswith('# Table "digits", scaled: 2 of 30 epochs')
        assert '3 of 3 runs finished. ' in text
        assert '| CAKD logit | 1 of 1 |' in text
        for kind in ('gain', 'curves'):
            picture = folder / 'results' / f'{NAME}_{kind}.png'
            assert os.path.getsize(picture) > 5000
        in_browser = (folder / 'results' / f'{NAME}.html').read_text()
        assert '<h1>Table &#34;digits&#34;, scaled: 2 of 30 epochs</h1>' in in_browser


def test_a_whole_table_given_again_trains_nothing(tables):
    whole = tables[0]
    before = {p: p.stat().st_mtime_ns for p in runs_of(whole).rglob('*')}
    expected = numbers(whole)
    finish(start(whole), whole)
    assert {p: p.stat().st_mtime_ns for p in runs_of(whole).rglob('*')} == before
    assert numbers(whole) == expected


def test_a_page_of_more_runs_is_not_replaced(tables, tmp_path, monkeypatch):
    """By a work dir that lacks them, as after a clone."""
    shutil.copytree(tables[0] / 'results', tmp_path / 'results')
    before = {p.name: p.read_bytes() for p in (tmp_path / 'results').iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *WORDS, '--page'])
    with pytest.raises(ValueError, match='3 finished runs, work_dirs/reproduce 0'):
        main()
    after = {p.name: p.read_bytes() for p in (tmp_path / 'results').iterdir()}
    assert after == before


@pytest.mark.parametrize('text', ['', '[]', '{"finished": "3"}', '{"finished"'])
def test_a_damaged_page_is_refused_before_training(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *WORDS])
    monkeypatch.setattr(reproduce, 'train', lambda *_: pytest.fail('it trains'))
    page = tmp_path / 'results' / f'{NAME}.json'
    page.parent.mkdir()
    page.write_text(text)
    with pytest.raises(ValueError, match=f'results/{NAME}.json is damaged'):
        main()
    assert page.read_text() == text


@pytest.mark.parametrize('option', ['--out', '--work-dir', '--archive'])
@pytest.mark.parametrize('problem', ['file', 'full', 'name'])
def test_a_folder_that_cannot_be_used_is_refused_before_training(
    tmp_path, monkeypatch, option, problem
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, 'train', lambda *_: pytest.fail('it trains'))
    folder = 'a \udcff' if problem == 'name' else 'folder'
    if problem == 'file':
        (tmp_path / folder).touch()
    if problem == 'full':

        def fsync(_):
            raise OSError(28, 'No space left on device')

        monkeypatch.setattr(reproduce.os, 'fsync', fsync)
    words = [word for word in WORDS if word not in ('--out', 'results')]
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *words, option, folder])
    kind = ValueError if problem == 'name' else OSError
    with pytest.raises(kind, match='no UTF-8|be written there') as caught:
        main()
    if problem != 'full':  # All folders are on that disk.
        assert f'`{option}`' in str(caught.value)
    assert not list(tmp_path.rglob('tmp*'))


def named(*words):
    args = parse_args(['--table', *words])
    pairs = select(args.table, args.pairs, args.methods)
    recipe = 240 if args.table == 'II' else 30
    pair = argparse.Namespace(epochs=args.epochs or recipe, recipe=recipe)
    return name_of(args, [pair] * len(pairs))


def test_every_selection_has_files_of_its_own():
    selections = [
        ('II',),
        ('II', '--pairs', 'r56_r20'),
        ('II', '--methods', 'KD'),
        ('II', '--methods', 'KD', 'CAKD'),
        ('II', '--seeds', '1'),
        ('II', '--epochs', '30'),
        ('II', '--speed', 'bf16'),
        ('II', '--first-seed', '3'),
        ('II', '--held-out'),
        ('II', '--quick'),
        ('digits',),
        ('digits', '--quick'),
    ]
    names = [named(*words) for words in selections]
    assert len(set(names)) == len(names)
    assert names[0] == 'table_II'
    features = ('CAKD logit & single, network', 'control: random mask')
    assert named('cifar10-mini', '--methods', *features) == (
        'table_cifar10-mini_CAKD-logit-single-network_control-random-mask'
    )
    # Many methods have a short name, too, of their own.
    rows = [row.name for row in select('beyond')[0].rows[2:]]
    names = [named('beyond', '--methods', *chosen) for chosen in (rows, rows[1:])]
    assert len(set(names)) == 2
    assert all(len(name) < 60 for name in names)
    # What is said is what is done without saying it.
    said = ('II', '--epochs', '240', '--seeds', '3', '--speed', 'lossless')
    assert named(*said) == 'table_II'


@pytest.mark.parametrize(
    'words',
    [
        ('--seeds', '0'),
        ('--first-seed', '-1'),
        ('--epochs', '1.5'),
        ('--jobs', '0'),
        ('--minutes', '0'),
        ('--minutes', 'nan'),
        ('--quick', '--epochs', '9'),
        ('--quick', '--methods', 'KD'),
        ('--speed', 'fast'),
    ],
)
def test_wrong_numbers_are_refused_by_name(capsys, words):
    with pytest.raises(SystemExit):
        parse_args(['--table', 'II', *words])
    assert words[0] in capsys.readouterr().err.partition('error: ')[2]


def test_the_page_names_what_makes_the_same_table():
    words = ['--table', 'II', '--methods', 'CAKD', 'KD', '--minutes', '8.5', '--page']
    words += ['--first-seed', '7', '--held-out']
    args = parse_args([*words, '--out', 'x', '--epochs', '30'])
    command = command_of(args)
    assert command == (
        'python tools/reproduce.py --table II --methods CAKD KD --epochs 30 --seeds 3 '
        '--speed lossless --first-seed 7 --held-out'
    )
    again = parse_args(shlex.split(command)[2:])
    names = ('table', 'pairs', 'methods', 'epochs', 'seeds', 'speed')
    for name in (*names, 'first_seed', 'held_out'):
        assert getattr(again, name) == getattr(args, name)


def test_quick_is_the_first_pairs_first_cakd():
    args = parse_args(['--table', 'II', '--quick'])
    assert (args.pairs, args.methods) == (['r56_r20'], ['CAKD'])
    assert (args.epochs, args.seeds) == (3, 1)
    args = parse_args(['--table', 'cifar10-mini'])
    assert (args.speed, args.seeds, args.epochs, args.jobs) == ('bf16', 3, None, 'auto')


@pytest.mark.parametrize('out_of_time', [False, True])
def test_in_pieces_beside_a_page_of_more_runs(
    tmp_path, monkeypatch, capsys, out_of_time
):
    """As in a clone, whose pages are complete."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *WORDS])
    outcome = Outcome(failed={'a run': 'it broke'}, out_of_time=out_of_time)
    monkeypatch.setattr(reproduce, 'train', lambda *_: outcome)
    before = tmp_path / 'results' / f'{NAME}.json'
    before.parent.mkdir()
    before.write_text('{"finished": 3}')
    ends = SystemExit if out_of_time else ValueError
    with pytest.raises(
        ends, match=r'1 run\(s\) failed' if out_of_time else 'not replaced'
    ):
        main()
    said = capsys.readouterr().out
    assert 'a run failed: it broke' in said
    assert ('give the same command again' in said) is out_of_time
    assert before.read_text() == '{"finished": 3}'


@pytest.mark.parametrize(
    ('words', 'folder'),
    [
        (['--table', 'II', '--pairs', 'r56_r20'], 'data/tiny-imagenet-200'),
        (['--table', 'cifar10-mini'], 'data/cifar10'),
    ],
)
def test_a_missing_data_folder_stops_it_before_it_writes(
    tmp_path, monkeypatch, words, folder
):
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / 'archive'
    archive.mkdir()
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *words, '--archive', 'archive'])
    with pytest.raises(FileNotFoundError, match=f"data_root` = '{folder}.*there\\.$"):
        main()
    assert [*tmp_path.rglob('*')] == [archive]
