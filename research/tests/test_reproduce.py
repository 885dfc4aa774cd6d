"""The digits table, undisturbed and killed three times: the same numbers."""

import argparse
import fcntl
import json
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from tiny import CONFIGS

from cakd_mm.visualization.history import logged_lines

TOOL = CONFIGS.parent / 'tools' / 'reproduce.py'
NAME = 'table_digits_r20_r8_CAKD-logit_3e_1s'
RUNS = 3  # teacher, student, CAKD
TEACHER, CAKD = 'resnet20_digits_3e_seed0', 'digits_logit_3e_seed0'
# What is there when the study is killed, for the first, second and third time.
MOMENTS = ((TEACHER, 'epoch_1.pth'), (TEACHER, 'epoch_2.pth'), (CAKD, 'epoch_1.pth'))


def start(folder):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, '-W', 'ignore', str(TOOL), '--table', 'digits']
    with (folder / 'log').open('a') as log:
        return subprocess.Popen(
            [*command, '--quick', '--jobs', '2', '--out', 'results'],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def runs_of(folder):
    return folder / 'work_dirs' / 'reproduce' / 'resident'


def numbers(folder):
    content = json.loads((folder / 'results' / f'{NAME}.json').read_text())
    [pair] = content['pairs']
    rows = {name: (row['scores'], row['curves']) for name, row in pair['rows'].items()}
    return pair['teacher']['top1'], rows


def weights(folder):
    return {
        path.parent.name: torch.load(path, weights_only=False)['state_dict']
        for path in runs_of(folder).glob('*/epoch_3.pth')
    }


def next_epoch(run):
    """Where a killed run has to go on: after its newest checkpoint that is whole."""
    with (run / 'lock').open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held until its process is dead, too
        whole = [path for path in run.glob('epoch_*.pth') if zipfile.is_zipfile(path)]
    return 1 + max((int(path.stem.rpartition('_')[2]) for path in whole), default=0)


@pytest.fixture(scope='module')
def tables(tmp_path_factory):
    """Folder of the whole table, and of the one killed three times."""
    whole, killed = (tmp_path_factory.mktemp(name) for name in ('whole', 'killed'))
    assert start(whole).wait(timeout=600) == 0, (whole / 'log').read_text()
    kills = []
    for name, checkpoint in MOMENTS:
        process = start(killed)
        run = runs_of(killed) / name
        deadline = time.monotonic() + 300
        while not (run / checkpoint).is_file():
            assert process.poll() is None, (killed / 'log').read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (run / 'result.json').is_file()
        kills.append((name, next_epoch(run)))
    (killed / 'kills.json').write_text(json.dumps(kills))
    assert start(killed).wait(timeout=600) == 0, (killed / 'log').read_text()
    return whole, killed


def test_a_table_killed_three_times_has_the_same_numbers(tables):
    whole, killed = tables
    assert numbers(killed) == numbers(whole)
    expected, found = weights(whole), weights(killed)
    assert expected.keys() == found.keys()
    assert len(expected) == RUNS
    for name, own in expected.items():
        assert own.keys() == found[name].keys()
        assert all(torch.equal(own[key], found[name][key]) for key in own), name


def test_it_was_killed_in_the_middle_and_repeated_nothing(tables):
    whole, killed = tables
    for folder in runs_of(killed).glob('*_seed?'):
        starts = json.loads((folder / 'result.json').read_text())['starts']
        kills = [name for name, _ in MOMENTS].count(folder.name)
        assert len(starts) >= 1 + kills, folder.name
    stopped = json.loads((killed / 'kills.json').read_text())
    for name in (TEACHER, CAKD):
        logs = sorted((runs_of(killed) / name).glob('*/*/scalars.json'))
        lines = [logged_lines(path.read_text()) for path in logs]
        epochs = [[x['epoch'] for x in own if 'epoch' in x] for own in lines]
        went_on = [epoch for run, epoch in stopped if run == name]
        assert [own[0] for own in epochs if own] == [1, *went_on], name
    logs = (killed / 'log').read_text()
    for run in runs_of(whole).glob('*/result.json'):
        assert logs.count(f'{run.parent.name}: ') == 1  # said once, when it ended


def test_the_page_is_complete_and_says_that_it_is_scaled(tables):
    for folder in tables:
        text = (folder / 'results' / f'{NAME}.md').read_text()
        assert text.startswith('# Table "digits", scaled: 3 of 30 epochs')
        assert f'{RUNS} of {RUNS} runs finished. ' in text
        assert '| CAKD logit | 1 of 1 |' in text
        for kind in ('gain', 'curves'):
            picture = folder / 'results' / f'{NAME}_{kind}.png'
            assert os.path.getsize(picture) > 5000


def test_a_whole_table_given_again_trains_nothing(tables):
    whole, _ = tables
    before = {p: p.stat().st_mtime_ns for p in runs_of(whole).rglob('*')}
    expected = numbers(whole)
    assert start(whole).wait(timeout=300) == 0
    assert {p: p.stat().st_mtime_ns for p in runs_of(whole).rglob('*')} == before
    assert numbers(whole) == expected


def test_a_page_of_more_runs_is_not_replaced(tables, tmp_path):
    """By a work dir that lacks them, as after a clone."""
    whole, _ = tables
    shutil.copytree(whole / 'results', tmp_path / 'results')
    before = {p.name: p.read_bytes() for p in (tmp_path / 'results').iterdir()}
    command = [sys.executable, '-W', 'ignore', str(TOOL), '--table', 'digits']
    done = subprocess.run(
        [*command, '--quick', '--page'], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f'{RUNS} finished runs, work_dirs/reproduce 0' in done.stderr
    after = {p.name: p.read_bytes() for p in (tmp_path / 'results').iterdir()}
    assert after == before


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(TOOL))


def named(tool, *words):
    args = tool['parse_args'](['--table', *words])
    pairs = tool['select'](args.table, args.pairs, args.methods)
    recipe = 240 if args.table == 'II' else 30
    own = argparse.Namespace(epochs=args.epochs or recipe, recipe=recipe)
    return tool['name_of'](args, [own] * len(pairs))


def test_every_selection_has_files_of_its_own(tool):
    selections = [
        ('II',),
        ('II', '--pairs', 'r56_r20'),
        ('II', '--methods', 'KD'),
        ('II', '--methods', 'KD', 'CAKD'),
        ('II', '--seeds', '1'),
        ('II', '--epochs', '30'),
        ('II', '--speed', 'bf16'),
        ('II', '--quick'),
        ('digits',),
        ('digits', '--quick'),
    ]
    names = [named(tool, *words) for words in selections]
    assert len(set(names)) == len(names)
    assert names[0] == 'table_II'
    features = ('CAKD logit & single, network', 'control: random mask')
    assert named(tool, 'cifar10-mini', '--methods', *features) == (
        'table_cifar10-mini_CAKD-logit-single-network_control-random-mask'
    )
    # What is said is what is done without saying it.
    said = ('II', '--epochs', '240', '--seeds', '3', '--speed', 'lossless')
    assert named(tool, *said) == 'table_II'


@pytest.mark.parametrize(
    'words',
    [
        ('--seeds', '0'),
        ('--seeds', '-1'),
        ('--epochs', '0'),
        ('--epochs', '1.5'),
        ('--jobs', 'many'),
        ('--jobs', '0'),
        ('--minutes', '0'),
        ('--minutes', 'nan'),
        ('--quick', '--epochs', '9'),
        ('--quick', '--methods', 'KD'),
        ('--speed', 'fast'),
    ],
)
def test_wrong_numbers_are_refused_by_name(tool, capsys, words):
    with pytest.raises(SystemExit):
        tool['parse_args'](['--table', 'II', *words])
    assert words[0] in capsys.readouterr().err.partition('error: ')[2]


def test_the_page_names_what_makes_the_same_table(tool):
    words = ['--table', 'II', '--methods', 'CAKD', 'KD', '--minutes', '8.5', '--page']
    args = tool['parse_args']([*words, '--out', 'x', '--epochs', '30'])
    command = tool['command_of'](args)
    assert command == (
        'python tools/reproduce.py --table II --methods CAKD KD --epochs 30 --seeds 3 '
        '--speed lossless'
    )
    again = tool['parse_args'](shlex.split(command)[2:])
    for name in ('table', 'pairs', 'methods', 'epochs', 'seeds', 'speed'):
        assert getattr(again, name) == getattr(args, name)


def test_quick_is_the_first_pairs_first_cakd(tool):
    args = tool['parse_args'](['--table', 'II', '--quick'])
    assert (args.pairs, args.methods) == (['r56_r20'], ['CAKD'])
    assert (args.epochs, args.seeds) == (3, 1)
    args = tool['parse_args'](['--table', 'cifar10-mini'])
    assert (args.speed, args.seeds, args.epochs, args.jobs) == ('bf16', 3, None, 'auto')


@pytest.mark.parametrize('out_of_time', [False, True])
def test_in_pieces_beside_a_page_of_more_runs(
    tool, tmp_path, monkeypatch, capsys, out_of_time
):
    """As in a clone, whose pages are complete."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [str(TOOL), '--table', 'digits', '--quick'])
    outcome = tool['Outcome'](failed={'a run': 'it broke'}, out_of_time=out_of_time)
    monkeypatch.setitem(tool['main'].__globals__, 'train', lambda *_: outcome)
    before = tmp_path / 'results' / f'{NAME}.json'
    before.parent.mkdir()
    before.write_text('{"finished": 3}')
    ends = SystemExit if out_of_time else ValueError
    with pytest.raises(
        ends, match=r'1 run\(s\) failed' if out_of_time else 'not replaced'
    ):
        tool['main']()
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
    tool, tmp_path, monkeypatch, words, folder
):
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / 'archive'
    archive.mkdir()
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *words, '--archive', 'archive'])
    with pytest.raises(FileNotFoundError, match=f"data_root` = '{folder}.*there\\.$"):
        tool['main']()
    assert [*tmp_path.rglob('*')] == [archive]
