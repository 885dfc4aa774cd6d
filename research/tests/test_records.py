"""Records that are damaged: named, and nothing of them believed."""

import json
import math

import pytest
from finished import START, finish_run

from research import records
from research.records import RESULT, STARTS, fits, read_record
from research.runs import Run


@pytest.fixture
def run(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('train_cfg = dict(max_epochs=3)\n')
    return Run('the run', config, tmp_path / 'run')


@pytest.fixture
def warned(monkeypatch):
    """The warnings, which mmengine's logger would write where it was first used."""
    found = []
    monkeypatch.setattr(records, 'print_log', lambda text, *_: found.append(text))
    return found


def again(run):
    """The same run, as another process sees it."""
    return Run(run.name, run.config, run.work_dir)


def damage(content):
    """Return what a damaged file may hold in the place of some json."""
    text = json.dumps(content)
    return ['', text[:-5], '[]', '7', 'null', '{}', 'no json', '[' * 100000, '\x00' * 9]


def without(content, key):
    return {k: v for k, v in content.items() if k != key}


@pytest.mark.parametrize('name', ['result.json', 'starts.json'])
def test_a_damaged_record_makes_a_run_unfinished(run, name, warned):
    run.work_dir.mkdir()
    run._note_start(threads=1)
    finish_run(run, [10.0, 20.0])
    assert again(run).finished
    path = run.work_dir / name
    whole = path.read_bytes()
    for text in [*damage(json.loads(whole)), whole[:-9] + b'\xff\xfe']:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        found = again(run)
        assert not found.finished, text
        assert found.failure is None
        assert len(found.starts) == 1  # of the other file
        found.check()
    assert warned
    assert all(f'{path} is damaged' in text for text in warned)
    told = len(warned)
    assert not found.finished
    assert len(warned) == told  # once as long as the file stays
    path.write_bytes(whole)
    assert again(run).finished


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('top1', math.nan),
        ('top1', math.inf),
        ('top1', 10**400),
        ('top1', '50'),
        ('top1', True),
        ('curve', [[1, 2, 3]]),
        ('curve', [[1.5, 2]]),
        ('curve', {}),
        ('seconds', None),
        ('checkpoint_sha256', 7),
        ('teacher_sha256', []),
        ('starts', {}),
        ('starts', [7]),
        ('starts', [without(START, 'commit')]),
        ('starts', [dict(START, threads='2')]),
        ('starts', [dict(START, versions=['2'])]),
    ],
)
def test_what_a_result_needs(run, key, value):
    finish_run(run, [10.0])
    path = run.work_dir / 'result.json'
    content = json.loads(path.read_text())
    assert fits(content, RESULT)
    assert fits(content | dict(starts=[START, dict(START, threads=2)]), RESULT)
    for changed in (content | {key: value}, without(content, key)):
        path.write_text(json.dumps(changed))
        assert read_record(path, RESULT) is None
        assert not again(run).finished


def test_a_damaged_failure(run, warned):
    run.note_failure('it broke')
    path = run.work_dir / 'failed.json'
    for text in (*damage(dict(reason='it broke')), '{"reason": 7}'):
        path.write_text(text)
        assert again(run).failure is None
        assert not again(run).finished
    assert all(f'{path} is damaged' in text for text in warned)


def test_checkpoints_of_unknown_settings_are_set_aside(run, monkeypatch):
    """Nobody can tell what they were trained with."""
    monkeypatch.setattr('research.runs.commit', lambda: 'abc')
    monkeypatch.setattr('research.runs.subprocess.Popen', lambda *_, **__: None)
    finish_run(run, [10.0])
    (run.work_dir / 'starts.json').write_text('{"starts"')
    (run.work_dir / 'result.json').unlink()
    again(run).start()
    assert len(again(run).starts) == 1
    [aside] = run.work_dir.glob('unknown_before_*')
    assert (aside / 'epoch_3.pth').is_file()
    assert {x.name for x in run.work_dir.iterdir()} == {
        'starts.json',
        'lock',
        aside.name,
    }
    # Once it is known, it goes on.
    run.last_checkpoint.touch()
    (run.work_dir / 'result.json').write_text('')
    again(run).start()
    assert run.last_checkpoint.is_file()
    assert read_record(run.work_dir / 'starts.json', STARTS)
