"""A table that goes on from what another machine has finished."""

import json
import runpy
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from bomb import Bomb
from finished import finish_run

from research import records
from research.archive import restore, store
from research.plan import in_turn, plan
from research.summary import summarise
from research.tables import select


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Plans of a table in a work dir of their own."""
    monkeypatch.chdir(tmp_path)

    def build(name, finished=0):
        pairs = select('digits', methods=['KD'])
        planned = plan(pairs, 2, tmp_path / name, 'resident', 4)
        for number, run in enumerate(in_turn(planned)[:finished]):
            run.work_dir.mkdir(parents=True)
            run._note_start(threads=1)
            finish_run(run, [50.0 + number] * 4)
        return planned, in_turn(planned), tmp_path / name

    return build


@pytest.fixture
def archived(tables, tmp_path):
    """An archive, the folder in it of each run, and the runs that it was made of."""

    def build(finished):
        _, runs, work_dir = tables('here', finished)
        store(runs, work_dir, tmp_path / 'archive')
        folders = [
            tmp_path / 'archive' / run.work_dir.relative_to(work_dir) for run in runs
        ]
        return tmp_path / 'archive', folders, runs

    return build


def test_the_kept_runs_fit_their_tables(tmp_path, monkeypatch):
    """Whatever the shipped configs have got since."""
    kept = Path(__file__).parents[1] / 'results' / 'runs'
    # The later tables have the teacher of the first one, see research/docs/beyond.md.
    own = kept / 'bf16' / 'resnet20_cifar10-mini_30e_seed0' / 'epoch_30.pth'
    given = tmp_path / 'work_dirs' / 'resnet20_cifar10-mini' / 'epoch_30.pth'
    monkeypatch.chdir(tmp_path)  # The checkout may have a teacher there.
    tables = [plan(select('cifar10-mini'), 5, tmp_path, 'bf16')]
    given.parent.mkdir(parents=True)
    shutil.copy(own, given)
    screen, tested = select('beyond-screen'), select('beyond')
    tables.append(plan(screen, 2, tmp_path, 'lossless', held_out=True))
    tables.append(plan(tested, 5, tmp_path, 'lossless', first_seed=10))
    planned = [run for table in tables for run in in_turn(table)]
    runs = {run.work_dir.relative_to(tmp_path): run for run in planned}
    counts = Counter[str]()
    for file in kept.rglob('result.json'):
        folder = file.parent.relative_to(kept)
        result = json.loads(file.read_text())
        assert {x['settings'] for x in result['starts']} == {runs[folder].settings}
        teacher = runs[folder].teacher
        if folder.parts[0] == 'lossless' and teacher:
            assert result['teacher_sha256'] == teacher.sha256
        counts[folder.parts[0]] += 1
    assert counts['bf16'] == 42
    assert set(counts) <= {'bf16', 'lossless'}


def train_otherwise(run):
    """Let it have ended with other weights."""
    run.last_checkpoint.write_bytes(b'trained otherwise')
    run.write_result()
    run._result = {}


def test_another_machine_goes_on(tables, tmp_path):
    planned, runs, work_dir = tables('here', finished=3)
    archive = tmp_path / 'archive'
    store(runs, work_dir, archive)
    other, its_runs, elsewhere = tables('there')
    assert restore(its_runs, elsewhere, archive) == 3
    assert [run.finished for run in its_runs] == [True] * 3 + [False] * 2
    assert summarise(other, 'resident') == summarise(planned, 'resident')
    teacher, student, _ = its_runs[:3]
    assert teacher.last_checkpoint.read_bytes() == runs[0].last_checkpoint.read_bytes()
    assert not student.last_checkpoint.exists()  # nobody learns from it
    assert restore(its_runs, elsewhere, archive) == 0
    for run in its_runs:
        run.check()


def test_no_code_of_a_kept_teacher_is_run(tables, tmp_path, monkeypatch):
    _, runs, work_dir = tables('here', finished=1)
    teacher = runs[0]
    content = dict(state_dict={'w': torch.zeros(1)}, extra=Bomb(tmp_path / 'executed'))
    torch.save(content, teacher.last_checkpoint)
    teacher.write_result()
    store(runs, work_dir, tmp_path / 'archive')
    _, its_runs, elsewhere = tables('there')
    assert restore(its_runs, elsewhere, tmp_path / 'archive') == 1
    student = next(run for run in its_runs if run.teacher)
    _, _, _, tool, *words = student._command()
    monkeypatch.setattr(sys, 'argv', [tool, *words])
    with pytest.raises(ValueError, match=r'`model\.teacher_ckpt` = .*`io\.open`'):
        runpy.run_path(tool, run_name='__main__')
    assert not (tmp_path / 'executed').exists()


def test_another_result_of_a_run_is_refused(tables, archived):
    archive, _, _ = archived(2)
    _, its_runs, elsewhere = tables('there', finished=2)
    train_otherwise(its_runs[1])
    with pytest.raises(ValueError, match=f'holds another run than {elsewhere}'):
        restore(its_runs, elsewhere, archive)
    with pytest.raises(ValueError, match=f'holds another run than {elsewhere}'):
        store(its_runs, elsewhere, archive)


def test_students_of_another_teacher_are_refused(tables, archived):
    archive, folders, _ = archived(5)
    _, its_runs, elsewhere = tables('there', finished=1)
    train_otherwise(its_runs[0])
    shutil.rmtree(folders[0])
    with pytest.raises(ValueError, match='--archive.*learned from another teacher'):
        restore(its_runs, elsewhere, archive)


@pytest.mark.parametrize('lost', ['folder', 'checkpoint'])
def test_no_students_without_their_teacher(lost, tables, archived):
    archive, folders, runs = archived(5)
    if lost == 'folder':
        shutil.rmtree(folders[0])
    else:
        (folders[0] / runs[0].last_checkpoint.name).unlink()
    _, its_runs, elsewhere = tables('there')
    assert restore(its_runs, elsewhere, archive) == 2
    taken = [run.name.split('_')[0] for run in its_runs if run.finished]
    assert taken == ['resnet8', 'resnet8']


def test_a_teacher_is_completed_by_a_later_selection(tables, tmp_path):
    _, runs, work_dir = tables('here', finished=5)
    archive = tmp_path / 'archive'
    store([run for run in runs if run.teacher is None], work_dir, archive)
    assert not list(archive.rglob('*.pth'))
    store(runs, work_dir, archive)
    assert len(list(archive.rglob('*.pth'))) == 1
    assert not list(archive.rglob('*.part'))


def test_a_damaged_result_in_the_archive_is_named(tables, archived, monkeypatch):
    """It counts as none, and is replaced by one that is whole."""
    archive, folders, runs = archived(2)
    path = folders[1] / 'result.json'
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    warned = []
    monkeypatch.setattr(records, 'print_log', lambda text, *_: warned.append(text))
    _, its_runs, elsewhere = tables('there')
    assert restore(its_runs, elsewhere, archive) == 1
    assert f'{path} is damaged' in warned[0]
    store(runs, runs[0].work_dir.parents[1], archive)
    assert path.read_bytes() == whole


def test_no_teacher_is_kept_that_changed_after_it_finished(tables, tmp_path):
    _, runs, work_dir = tables('here', 1)
    runs[0].last_checkpoint.write_bytes(b'others')
    with pytest.raises(ValueError, match='no longer the file'):
        store(runs, work_dir, tmp_path / 'archive')
    assert not list((tmp_path / 'archive').rglob('*.*'))


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ('settings', 'with other settings'),
        ('checkpoint', 'not the checkpoint that was kept'),
    ],
)
def test_what_was_changed_in_the_archive_is_refused(tables, archived, changed, message):
    archive, folders, runs = archived(1)
    result = folders[0] / 'result.json'
    content = json.loads(result.read_text())
    if changed == 'settings':
        content['starts'][0]['settings'] = 'others'
        result.write_text(json.dumps(content))
    else:
        (folders[0] / runs[0].last_checkpoint.name).write_bytes(b'others')
    _, its_runs, elsewhere = tables('there')
    with pytest.raises(ValueError, match=message):
        restore(its_runs, elsewhere, archive)
    assert not elsewhere.exists()
