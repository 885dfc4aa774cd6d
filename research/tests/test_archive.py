"""A table that goes on from what another machine has finished."""

import json
import shutil

import pytest
from tiny_runs import finish_run

from research.archive import restore, store
from research.plan import in_turn, plan
from research.summary import summarise
from research.tables import select


def end(run, score):
    run.work_dir.mkdir(parents=True)
    run._note_start(threads=1)
    finish_run(run, [score] * 4)


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Plans of a table in a work dir of their own."""
    monkeypatch.chdir(tmp_path)

    def build(name, epochs=4, finished=0):
        pairs = select('digits', methods=['KD'])
        planned = plan(pairs, 2, tmp_path / name, 'resident', epochs)
        for number, run in enumerate(in_turn(planned)[:finished]):
            end(run, 50.0 + number)
        return planned, in_turn(planned), tmp_path / name

    return build


def test_another_machine_goes_on(tables, tmp_path):
    planned, runs, work_dir = tables('here', finished=3)
    store(runs, work_dir, tmp_path / 'kept')
    other, its_runs, elsewhere = tables('there')
    assert restore(its_runs, elsewhere, tmp_path / 'kept') == 3
    assert [run.finished for run in its_runs] == [True] * 3 + [False] * 2
    assert summarise(other, 'resident') == summarise(planned, 'resident')
    teacher, student, _ = its_runs[:3]
    assert teacher.last_checkpoint.read_bytes() == runs[0].last_checkpoint.read_bytes()
    assert not student.last_checkpoint.exists()  # nobody learns from it
    assert restore(its_runs, elsewhere, tmp_path / 'kept') == 0
    for run in its_runs:
        run.check()


def test_another_result_of_a_run_is_refused_before_anything_is_trained(
    tables, tmp_path
):
    _, runs, work_dir = tables('here', finished=2)
    store(runs, work_dir, tmp_path / 'kept')
    _, its_runs, elsewhere = tables('there', finished=2)
    its_runs[1].last_checkpoint.write_bytes(b'trained otherwise')
    its_runs[1].write_result()
    its_runs[1]._result = None
    with pytest.raises(ValueError, match=f'holds another run than {elsewhere}'):
        restore(its_runs, elsewhere, tmp_path / 'kept')


def another_teacher(run):
    run.last_checkpoint.write_bytes(b'another teacher')
    run.write_result()
    run._result = None


def test_students_of_another_teacher_are_refused(tables, tmp_path):
    _, runs, work_dir = tables('here', finished=5)
    store(runs, work_dir, tmp_path / 'kept')
    _, its_runs, elsewhere = tables('there', finished=1)
    another_teacher(its_runs[0])
    assert its_runs[0].sha256 != runs[0].sha256
    with pytest.raises(ValueError, match='holds another run'):
        store(its_runs, elsewhere, tmp_path / 'kept')
    shutil.rmtree(tmp_path / 'kept' / runs[0].work_dir.relative_to(work_dir))
    with pytest.raises(ValueError, match='--archive.*learned from another teacher'):
        restore(its_runs, elsewhere, tmp_path / 'kept')


@pytest.mark.parametrize('lost', ['folder', 'checkpoint'])
def test_no_students_without_their_teacher(lost, tables, tmp_path):
    _, runs, work_dir = tables('here', finished=5)
    store(runs, work_dir, tmp_path / 'kept')
    teacher = tmp_path / 'kept' / runs[0].work_dir.relative_to(work_dir)
    if lost == 'folder':
        shutil.rmtree(teacher)
    else:
        (teacher / runs[0].last_checkpoint.name).unlink()
    _, its_runs, elsewhere = tables('there')
    assert restore(its_runs, elsewhere, tmp_path / 'kept') == 2
    taken = [run.name.split('_')[0] for run in its_runs if run.finished]
    assert taken == ['resnet8', 'resnet8']


def test_a_teacher_is_completed_by_a_later_selection(tables, tmp_path):
    _, runs, work_dir = tables('here', finished=5)
    alone = [run for run in runs if run.teacher is None]
    store(alone, work_dir, tmp_path / 'kept')
    assert not list((tmp_path / 'kept').rglob('*.pth'))
    store(runs, work_dir, tmp_path / 'kept')
    assert len(list((tmp_path / 'kept').rglob('*.pth'))) == 1
    assert not list((tmp_path / 'kept').rglob('*.part'))


def test_other_settings_are_refused(tables, tmp_path):
    _, runs, work_dir = tables('here', finished=1)
    store(runs, work_dir, tmp_path / 'kept')
    [result] = (tmp_path / 'kept').rglob('result.json')
    content = json.loads(result.read_text())
    content['starts'][0]['settings'] = 'others'
    result.write_text(json.dumps(content))
    _, its_runs, elsewhere = tables('there')
    with pytest.raises(ValueError, match='with other settings'):
        restore(its_runs, elsewhere, tmp_path / 'kept')
    assert not elsewhere.exists()


def test_a_changed_checkpoint_is_refused(tables, tmp_path):
    _, runs, work_dir = tables('here', finished=1)
    store(runs, work_dir, tmp_path / 'kept')
    [checkpoint] = (tmp_path / 'kept').rglob('epoch_*.pth')
    checkpoint.write_bytes(checkpoint.read_bytes() + b'x')
    _, its_runs, elsewhere = tables('there')
    with pytest.raises(ValueError, match='not the checkpoint that was kept'):
        restore(its_runs, elsewhere, tmp_path / 'kept')


def test_an_archive_that_is_not_there_is_empty(tables, tmp_path):
    _, runs, work_dir = tables('here')
    assert restore(runs, work_dir, tmp_path / 'nowhere') == 0
    store(runs, work_dir, tmp_path / 'kept')
    assert not (tmp_path / 'kept').exists()
