"""The search of the protocol: what it changes, and that it never sees the test set."""

import runpy

import pytest
from tiny import CONFIGS, algorithm, save_teacher
from tiny_runs import finish_run, resolved

from cakd_mm.reproduction.plan import plan
from cakd_mm.reproduction.tables import select

TOOL = CONFIGS.parent / 'tools' / 'analysis_tools' / 'cakd_search.py'


@pytest.fixture(scope='module')
def search():
    return runpy.run_path(str(TOOL))


@pytest.fixture
def rows(search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return search['settings'](2, tmp_path / 'runs')[1]


def test_no_setting_is_scored_on_the_test_set_or_on_what_it_trains_on(rows):
    for runs in rows.values():
        for run in runs.values():
            cfg = resolved(run)
            assert tuple(cfg.train_dataloader.dataset.per_class) == (0, 1000)
            assert cfg.train_dataloader.dataset.data_prefix == 'train'
            for loader in (cfg.val_dataloader, cfg.test_dataloader):
                assert loader.dataset.data_prefix == 'train'
                assert tuple(loader.dataset.per_class) == (1000, 1500)


def test_the_budget_is_that_of_the_protocol(rows):
    assert sum(map(len, rows.values())) == 20
    folders = [run.work_dir for runs in rows.values() for run in runs.values()]
    assert len(set(folders)) == 20


def test_each_setting_changes_one_thing(search, rows):
    base = resolved(rows[search['BASE']][0]).to_dict()
    for name in search['CHANGES']:
        own = resolved(rows[name][0]).to_dict()
        assert differences(base, own) == len(search['CHANGES'][name]), name
        assert own['randomness']['seed'] == 0


def test_each_setting_can_be_built(rows, tmp_path):
    checkpoint = str(save_teacher(tmp_path / 'teacher.pth'))
    for name, runs in rows.items():
        cfg = resolved(runs[0])
        cfg.model.teacher_ckpt = checkpoint
        connectors = algorithm(cfg).distiller.connectors
        without = name in ('DKD', 'no connector')
        assert len(connectors) == (0 if without else 1), name


def test_a_student_of_the_table_is_scored_and_not_trained_again(
    search, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    work_dir = tmp_path / 'runs'
    pairs = select('cifar10-mini', methods=[search['BASE'], search['RIVAL']])
    [planned] = plan(pairs, 2, work_dir, 'bf16')
    trained = planned.rows[search['BASE']][0]
    finish_run(trained, [70.0])
    finish_run(planned.rows[search['RIVAL']][0], [70.0])
    planned.rows[search['RIVAL']][0].last_checkpoint.unlink()  # as from an archive
    rows = search['settings'](2, work_dir)[1]
    assert rows[search['BASE']][0].checkpoint == trained.last_checkpoint
    for name, runs in rows.items():
        for seed, run in runs.items():
            if (name, seed) != (search['BASE'], 0):
                assert run.checkpoint is None


def differences(a, b):
    if isinstance(a, dict) and isinstance(b, dict):
        return sum(differences(a.get(k), b.get(k)) for k in {*a, *b})
    return int(a != b)


def test_settings_are_compared_with_the_base_seed_by_seed(search, rows):
    for seed, score in ((0, 70.0), (1, 71.0)):
        finish_run(rows[search['BASE']][seed], [score])
        finish_run(rows['tau 2'][seed], [score + 1])
    found = search['summarise'](rows, [])['settings']
    assert found['tau 2']['minus_base'] == dict(mean=1.0, half=0.0, pairs=2)
    assert found[search['BASE']]['minus_base'] is None
    assert found['share 0.25']['mean'] is None
