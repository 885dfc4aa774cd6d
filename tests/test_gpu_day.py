"""tools/gpu_day.sh: all pieces run, a failure stops no other, a second call goes on."""

import contextlib
import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from processes import is_alive

SKIPPED = ('tests', 'tests_compiled', 'nan_guard')


@pytest.fixture
def gpu_day(benchmarks):
    return importlib.import_module('gpu_day')


@pytest.fixture
def pieces(gpu_day, monkeypatch, tmp_path):
    """Let the day be a few scripts of one line; return how to set them."""

    def use(**scripts):
        found = []
        for name, (minutes, text) in scripts.items():
            file = tmp_path / f'{name}.py'
            file.write_text(text)
            found.append(gpu_day.Piece(name, f'{name}?', (str(file),), minutes))
        monkeypatch.setattr(gpu_day, 'PIECES', tuple(found))

    return use


WRITE = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index('--out') + 1])
(folder / 'numbers.json').write_text(json.dumps(dict(ms=3.5)))
print('| a | table |', flush=True)
"""


@pytest.mark.usefixtures('traced_only')
def test_a_dry_run_asks_everything_in_small(gpu_day, monkeypatch, tmp_path):
    """In this process, because each piece would import torch and mmengine anew."""
    known = {}
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))  # It goes with the test.

    def run(words, log, seconds):
        script, *rest = words
        out = Path(rest[-1])
        if tuple(rest[:-1]) in known:  # The speed of each pair is the same in small.
            shutil.copytree(known[tuple(rest[:-1])], out, dirs_exist_ok=True)
            return 0
        monkeypatch.setattr(sys, 'argv', list(words))
        with log.open('w') as file, contextlib.redirect_stdout(file):
            runpy.run_path(str(gpu_day.ROOT / script), run_name='__main__')
        if 'end_to_end' in script:
            known[tuple(rest[:-1])] = shutil.copytree(out, tmp_path / 'known')
        return 0

    monkeypatch.setattr(gpu_day, 'run_process', run)
    monkeypatch.setattr(sys, 'argv', ['gpu_day.py', str(tmp_path / 'day'), '--dry-run'])
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    gpu_day.main()
    content = json.loads((tmp_path / 'day/gpu_day.json').read_text())
    found = content['pieces']
    assert content['dry_run'] and content['environment']['gpu'] is None
    assert list(found) == [piece.name for piece in gpu_day.PIECES]
    for name, piece in found.items():
        assert piece['state'] == ('skipped' if name in SKIPPED else 'done'), piece
        assert bool(piece.get('results')) == (name not in SKIPPED)
    # No card, no counts of one, and a CPU knows no TF32.
    [row] = found['waits']['results']['waits']['rows']
    assert row['waits'] is row['kernels'] is None
    rows = found['tf32']['results']['tf32']['rows']
    assert [row['tf32'] for row in rows] == [False, False, True, True]
    assert all(row['deviation'] < 1e-5 for row in rows)
    runs = found['repeated']['results']['repeated']['runs']
    assert [*runs] == ['deterministic=False', 'deterministic=True']
    for differences in runs.values():
        for difference in differences.values():
            assert difference['values'] > 50_000
            assert difference['differing'] == 0
    hours = found['pair_hours']['results']['pair_hours']['rows']
    for row in hours:
        assert row['steps'] == 240 * 100_000 // row['batch_size']
        assert row['hours'] == pytest.approx(row['median_ms'] * row['steps'] / 3.6e6)
    page = (tmp_path / 'day/gpu_day.md').read_text()
    assert 'A dry run on a CPU: no number here says anything of a GPU' in page
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_fails_stops_no_other_and_is_tried_again_last(gpu_day, pieces, tmp_path):
    broken = 'import nothing_of_this_name'
    pieces(broken=(1, broken), good=(1, WRITE), long=(5, WRITE))
    day = gpu_day.Day(tmp_path / 'day', dry_run=False)
    day.go_on(minutes=2)
    found = json.loads((tmp_path / 'day/gpu_day.json').read_text())['pieces']
    assert found['broken']['state'] == 'failed'
    assert found['broken']['error'].startswith('ModuleNotFoundError: No module named')
    assert (found['good']['state'], found['good']['said']) == (
        'done',
        '| a | table |\n',
    )
    assert found['good']['results'] == dict(numbers=dict(ms=3.5))
    assert 'long' not in found  # It would not have been done in time.
    page = (tmp_path / 'day/gpu_day.md').read_text()
    assert '| long? | not tried |' in page
    assert '| a | table |' in page

    again = gpu_day.Day(tmp_path / 'day', dry_run=False)
    assert [piece.name for piece in again.todo()] == ['long', 'broken']
    (tmp_path / 'broken.py').write_text(WRITE)
    again.go_on(minutes=None)
    assert again.todo() == []
    assert {piece['state'] for piece in again.pieces.values()} == {'done'}


def test_a_piece_that_takes_too_long_ends_with_what_it_started(
    gpu_day, pieces, monkeypatch, tmp_path
):
    """And what it had written down by then is kept."""
    child = "import subprocess, sys, time\nchild = ['sleep', '60']\n"
    child += 'print(subprocess.Popen(child).pid, flush=True)\ntime.sleep(60)'
    pieces(slow=(0.01, WRITE + child), next=(0.01, WRITE))
    monkeypatch.setattr(gpu_day, 'LIMIT', 1.0)
    day = gpu_day.Day(tmp_path / 'day', dry_run=False)
    day.go_on(minutes=None)
    slow = day.pieces['slow']
    assert (slow['state'], slow['error']) == (
        'out of time',
        'It was killed after 1 seconds.',
    )
    assert slow['results'] == dict(numbers=dict(ms=3.5))
    assert not is_alive(int(slow['said'].split()[-1]))
    assert day.pieces['next']['state'] == 'done'


def test_a_dry_run_starts_nothing_when_its_time_is_over(gpu_day, pieces, tmp_path):
    pieces(good=(1, WRITE))
    day = gpu_day.Day(tmp_path / 'day', dry_run=True)
    day.go_on(minutes=0)
    assert day.pieces == {}


@pytest.mark.parametrize('text', ['{', '[]', '{"a": 1}', None])
def test_a_folder_of_something_else_is_refused_before_a_piece(gpu_day, tmp_path, text):
    out = tmp_path / 'out'
    if text is None:
        out.touch()  # no folder
    else:
        out.mkdir()
        (out / 'gpu_day.json').write_text(text)
    with pytest.raises(ValueError, match=r'^`OUT` = .*Name another'):
        gpu_day.Day(out, dry_run=True)


def test_tests_are_counted_by_name(gpu_day, monkeypatch, tmp_path):
    said = """
tests/test_gpu.py::test_one PASSED                                       [ 25%]
tests/test_gpu.py::test_two[resident, bf16] FAILED                       [ 50%]
tests/test_gpu.py::test_cards SKIPPED (needs two CUDA GPUs)              [ 75%]
tests/test_gpu.py::test_three[fast] PASSED                               [100%]
FAILED tests/test_gpu.py::test_two[resident, bf16] - RuntimeError: called
==== 1 failed, 2 passed, 1 skipped in 3.00s ====
"""

    def run(words, log, seconds):
        log.write_text(said)
        return 1

    monkeypatch.setattr(gpu_day, 'run_process', run)
    found = gpu_day.answer(gpu_day.PIECES[0], dry_run=False, seconds=1)
    assert found['state'] == 'failed'
    assert found['tests'] == dict(PASSED=2, FAILED=1, SKIPPED=1)
    assert found['not_passed'] == [
        'tests/test_gpu.py::test_two[resident, bf16]',
        'tests/test_gpu.py::test_cards',
    ]
    assert found['error'] == '==== 1 failed, 2 passed, 1 skipped in 3.00s ===='


def test_every_test_of_a_card_is_in_one_piece(gpu_day, root):
    """The pieces choose them by their names."""
    chosen = [p.command[-1] for p in gpu_day.PIECES if '-m' in p.command]
    names = [
        line.split('(')[0].removeprefix('def ')
        for line in (root / 'tests/test_gpu.py').read_text().splitlines()
        if line.startswith('def test_')
    ]
    assert len(names) > 10
    for name in names:
        words = ['nan', 'compiled', 'fast', 'runner', 'learns']
        there = {word: f'_{word}' in name for word in words}
        hits = [eval(choice, {}, there) for choice in chosen]
        assert sum(hits) == 1, name


def test_results_of_another_machine_are_not_mixed_in(gpu_day, pieces, tmp_path):
    pieces(good=(1, WRITE))
    gpu_day.Day(tmp_path / 'day', dry_run=True).write()
    with pytest.raises(ValueError, match='a dry run has said. Name another folder'):
        gpu_day.Day(tmp_path / 'day', dry_run=False)


def test_each_piece_is_of_under_six_minutes(gpu_day):
    assert gpu_day.LIMIT < 360
    assert all(60 * piece.minutes < gpu_day.LIMIT for piece in gpu_day.PIECES)


def test_without_a_card_it_names_the_dry_run(gpu_day, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(sys, 'argv', ['gpu_day.py', str(tmp_path / 'day')])
    with pytest.raises(SystemExit):
        gpu_day.main()
    assert 'This machine has no CUDA GPU. Add --dry-run.' in capsys.readouterr().err
    assert not (tmp_path / 'day').exists()


def test_the_command_starts_it_from_anywhere(root, tmp_path):
    told = subprocess.run(
        [root / 'tools/gpu_day.sh', 'here', '--minutes', '13'],
        cwd=tmp_path,
        env=dict(os.environ, PYTHON='echo'),
        capture_output=True,
        encoding='utf-8',
        check=True,
    ).stdout.split()
    assert Path(told[2]).samefile(root / 'benchmarks/gpu_day.py')
    assert told[3:] == ['here', '--minutes', '13']


def test_waits_are_counted_by_their_line(gpu_day, monkeypatch):
    waits = importlib.import_module('waits')
    modes = []
    monkeypatch.setattr(waits, 'device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', modes.append)

    def step():
        assert modes == ['warn']
        for _ in range(2):
            warnings.warn(f'{waits.SYNC} (function f)', stacklevel=1)
        warnings.warn('something else', stacklevel=1)

    [(place, count)] = waits.waits(step).items()
    assert count == 2
    assert place.startswith('test_gpu_day.py:')
    assert modes == ['warn', 'default']
