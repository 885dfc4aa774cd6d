import json
from dataclasses import replace

import pytest
from finished import START, finish_run
from tiny import CONFIGS

from research.plan import in_turn, plan
from research.tables import select


@pytest.fixture
def work_dir(tmp_path, monkeypatch):
    """Somewhere without any teacher."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'runs'


def make(work_dir, pairs=None, seeds=2, speed='resident', epochs=4):
    pairs = pairs or select('digits', methods=['KD', 'CAKD logit'])
    return plan(pairs, seeds, work_dir, speed, epochs)


def test_teachers_first_then_all_rows_of_a_seed(work_dir):
    rows = ('resnet8_digits_30e', 'kd_r20_r8_digits', 'digits_logit')
    assert [run.name.replace('_4e', '') for run in in_turn(make(work_dir))] == [
        'resnet20_digits_seed0',
        *(f'{row}_seed0' for row in rows),
        *(f'{row}_seed1' for row in rows),
    ]


def test_rows_differ_in_their_method_alone(work_dir):
    [pair] = make(work_dir, seeds=3)
    assert all(run.teacher is pair.teacher for run in pair.rows['KD'].values())
    assert all(run.teacher is None for run in pair.rows['student'].values())
    assert pair.teacher.teacher is None
    assert (pair.recipe, pair.epochs) == (30, 4)
    for runs in pair.rows.values():
        assert list(runs) == [0, 1, 2]
        for seed, run in runs.items():
            assert f'randomness.seed={seed}' in run.options


def test_a_row_of_two_views_reads_its_training_set_as_it_is(work_dir):
    [pair] = select('digits', methods=['KD'])
    config = CONFIGS / 'mlkd' / 'mlkd_r20_r8_digits.py'
    rows = [*pair.rows, replace(pair.rows[-1], name='MLKD', config=config)]
    [planned] = make(work_dir, [replace(pair, rows=tuple(rows))], seeds=1)
    for name, runs in planned.rows.items():
        assert ('train_cfg.resident=True' in runs[0].options) == (name != 'MLKD')
        assert 'val_cfg.type=ResidentValLoop' in runs[0].options


def test_pairs_and_tables_share_what_is_the_same(work_dir):
    """One teacher of two pairs, one plain student of two tables: one run each."""
    both = select('II', ['r32x4_r8x4', 'r32x4_shv2'], ['KD'])
    first, second = make(work_dir, both, seeds=1)
    assert first.teacher is second.teacher
    assert len(in_turn([first, second])) == 1 + 2 + 2
    [one] = make(work_dir, select('VI', ['r56_r20'])[:1], seeds=1)
    [other] = make(work_dir, select('I', ['r56_r20']), seeds=1)
    assert one.teacher.work_dir == other.teacher.work_dir
    assert one.rows['student'][0].work_dir == other.rows['student'][0].work_dir
    assert one.rows['student'][0].settings == other.rows['student'][0].settings


def test_other_lengths_and_speeds_have_folders_of_their_own(work_dir):
    folders = [
        {run.work_dir for run in in_turn(make(work_dir, speed=speed, epochs=epochs))}
        for speed in ('resident', 'plain')
        for epochs in (4, 5)
    ]
    assert sum(map(len, folders)) == len(set().union(*folders)) == 4 * 7


def test_a_teacher_that_is_there_is_scored_instead(work_dir, tmp_path):
    given = tmp_path / 'work_dirs' / 'resnet20_digits' / 'epoch_30.pth'
    given.parent.mkdir(parents=True)
    given.write_bytes(b'weights')
    [pair] = make(work_dir)
    assert pair.teacher.checkpoint.samefile(given)
    assert pair.teacher.options == []
    student = pair.rows['KD'][0]
    assert student.teacher is pair.teacher
    # Another one in its place is another teacher.
    finish_run(student, [50.0])
    known = dict(settings=student.settings, teacher_sha256=pair.teacher.sha256)
    start = {**START, **known}
    starts = student.work_dir / 'starts.json'
    starts.write_text(json.dumps(dict(starts=[start])))
    [again] = make(work_dir)
    assert again.teacher.work_dir == pair.teacher.work_dir
    given.write_bytes(b'others')
    with pytest.raises(ValueError, match='another teacher'):
        make(work_dir)
    starts.unlink()
    [new] = make(work_dir)
    assert new.teacher.work_dir != pair.teacher.work_dir


@pytest.mark.parametrize('method', ['KD', 'student'])
def test_a_teacher_from_elsewhere_has_to_be_there(work_dir, method):
    """Also for a pair without methods, whose teacher is trained if that is possible."""
    [pair] = make(work_dir, select('digits', methods=['student']))
    assert list(pair.rows) == ['student']
    assert pair.teacher.checkpoint is None
    with pytest.raises(FileNotFoundError, match='from_torchvision') as caught:
        make(work_dir, select('III', ['r34_r18'], [method]))
    assert 'model.teacher_ckpt' in str(caught.value)


def test_a_row_with_several_teachers_is_refused(work_dir, tmp_path):
    config = tmp_path / 'two.py'
    config.write_text("model = dict(teacher=[dict(name='a'), dict(name='b')])\n")
    [pair] = select('digits', methods=['KD'])
    rows = [*pair.rows[:-1], replace(pair.rows[-1], config=config)]
    with pytest.raises(ValueError, match=r"model\.teacher` = \['a', 'b'\].*two\.py"):
        make(work_dir, [replace(pair, rows=tuple(rows))])


@pytest.mark.parametrize(
    ('key', 'options'),
    [
        ('--seeds', dict(seeds=0)),
        ('--epochs', dict(epochs=0)),
        ('--speed', dict(speed='fast')),
    ],
)
def test_numbers_that_make_no_table_are_refused(work_dir, key, options):
    with pytest.raises(ValueError, match=f'`{key}`'):
        make(work_dir, **options)


def test_seeds_begin_where_they_are_told_to(work_dir):
    pairs = select('digits', methods=['KD'])
    [pair] = plan(pairs, 2, work_dir, 'resident', 4, first_seed=10)
    for runs in pair.rows.values():
        assert list(runs) == [10, 11]
        assert runs[11].options[0] == 'randomness.seed=11'
    [first] = plan(pairs, 12, work_dir, 'resident', 4)
    assert pair.rows['KD'][10].work_dir == first.rows['KD'][10].work_dir


def test_held_out_students_have_folders_of_their_own_and_the_same_teacher(work_dir):
    pairs = select('cifar10-mini', methods=['KD'])
    [held_out], [tested] = (
        plan(pairs, 1, work_dir, 'resident', 4, held_out=held_out)
        for held_out in (True, False)
    )
    assert held_out.teacher.work_dir == tested.teacher.work_dir
    assert held_out.teacher.settings == tested.teacher.settings
    for name in ('student', 'KD'):
        one, other = held_out.rows[name][0], tested.rows[name][0]
        assert one.work_dir != other.work_dir
        assert 'val_dataloader.dataset.data_prefix=train' in one.options
        assert 'val_dataloader.dataset.data_prefix=train' not in other.options
    with pytest.raises(ValueError, match=r'--held-out.*digits.*cifar10-mini'):
        plan(select('digits'), 1, work_dir, 'resident', 4, held_out=True)
