"""The arms and the statistics of ``precision_study.py``, on logs made up here."""

import argparse
import json
import runpy

import pytest
from scipy import stats
from tiny import CONFIGS
from tiny_runs import finish_run, resolved

TOOLS = CONFIGS.parent / 'tools' / 'analysis_tools'
SETS = ('digits', 'cifar10')
NAMES = ('float32', 'bf16 teacher', 'bf16')


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return runpy.run_path(str(TOOLS / 'precision_study.py'))


@pytest.fixture
def plan(study, tmp_path):
    def make(name='digits', seeds=(0, 1, 2)):
        return study['plan'](
            argparse.Namespace(set=name, seeds=seeds, work_dir=tmp_path)
        )

    return make


def finish(run, score):
    """Leave what a run leaves that has ended with this score."""
    finish_run(run, [score])


@pytest.mark.parametrize('name', SETS)
def test_arms_differ_in_their_precision_alone(plan, name):
    teacher, arms = plan(name)
    assert tuple(arms) == NAMES
    cfgs = [resolved(runs[1]).to_dict() for runs in arms.values()]
    precision = [
        (
            cfg['optim_wrapper'].pop('type'),
            cfg['optim_wrapper'].pop('dtype', None),
            cfg['model'].pop('teacher_runtime', None),
        )
        for cfg in cfgs
    ]
    bf16 = dict(dtype='bfloat16')
    assert precision == [
        ('OptimWrapper', None, None),
        ('OptimWrapper', None, bf16),
        ('AmpOptimWrapper', 'bfloat16', bf16),
    ]
    assert cfgs[0] == cfgs[1] == cfgs[2]
    assert cfgs[0]['randomness']['seed'] == 1
    assert cfgs[0]['train_cfg']['resident'] is True
    assert all(run.teacher is teacher for runs in arms.values() for run in runs)


@pytest.mark.parametrize('name', SETS)
def test_the_rate_falls_at_the_same_parts_of_the_run(plan, name):
    cfg = resolved(plan(name)[1]['float32'][0])
    epochs = cfg['train_cfg']['max_epochs']
    parts = [m / epochs for m in cfg['param_scheduler']['milestones']]
    assert parts == pytest.approx([5 / 8, 3 / 4, 7 / 8], abs=0.51 / epochs)
    assert cfg['train_cfg'].get('val_begin', 1) <= epochs


def test_every_run_has_a_folder_of_its_own(plan):
    _, arms = plan()
    folders = [run.work_dir for runs in arms.values() for run in runs]
    assert len(set(folders)) == len(folders) == 9


@pytest.mark.parametrize(
    ('difference', 'half', 'noise', 'expected'),
    [
        (-0.3, 0.4, 0.5, True),
        (0.3, 0.4, 0.5, True),
        (-0.45, 0.4, 0.5, False),  # the interval excludes 0
        (-0.45, 0.5, 0.4, False),  # more than seeds make
        (0.45, 0.5, 0.4, False),
        (0.0, 0.0, 0.0, True),  # every pair equal
        (-0.1, float('nan'), 0.5, False),
    ],
)
def test_within_noise(study, difference, half, noise, expected):
    assert study['within_noise'](difference, half, noise) is expected


def test_arms_are_compared_seed_by_seed(study, plan):
    teacher, arms = plan()
    finish(teacher, 80.0)
    scores = dict(zip(NAMES, ([60, 61, 65], [60.5, 61, 64], [58, 59, 63]), strict=True))
    for arm, runs in arms.items():
        for run, score in zip(runs, scores[arm], strict=True):
            finish(run, float(score))
    summary = study['summarise']('digits', teacher, arms)
    assert (summary['teacher'], summary['epochs']) == (80.0, 30)
    plain, half, whole = (summary['arms'][name] for name in NAMES)
    assert (plain['seeds'], plain['mean']) == (3, 62.0)
    assert plain['std'] == pytest.approx(7**0.5)
    assert 'minus float32' not in plain
    mean, width = half['minus float32']
    low, high = stats.ttest_rel(scores[NAMES[1]], scores[NAMES[0]]).confidence_interval(
        0.95
    )
    assert (mean - width, mean + width) == pytest.approx((low, high))
    assert half['within_seed_noise'] is True
    assert whole['minus float32'] == (-2.0, 0.0)  # the same loss with every seed
    assert whole['within_seed_noise'] is False
    assert json.loads(json.dumps(summary))['arms']['bf16']['mean'] == 60.0
    text = study['markdown'](summary)
    assert '| float32 | 3 | 62.00 ± 2.65 | 60.00, 61.00, 65.00 |  |  |' in text
    assert '| bf16 | 3 | 60.00 ± 2.65 | 58.00, 59.00, 63.00 | -2.00 ± 0.00 | no |' in (
        text
    )


def test_a_seed_counts_when_all_arms_have_finished_it(study, plan):
    teacher, arms = plan()
    finish(teacher, 80.0)
    for arm, runs in arms.items():
        for seed in (0, 2) if arm == 'bf16' else (0, 1, 2):
            finish(runs[seed], 50.0 + seed)
    entries = study['summarise']('digits', teacher, arms)['arms']
    assert {arm: entry['each'] for arm, entry in entries.items()} == {
        name: [50.0, 52.0] for name in NAMES
    }


def test_a_study_that_has_hardly_begun_has_an_empty_table(study, plan):
    teacher, arms = plan()
    finish(teacher, 80.0)
    summary = study['summarise']('digits', teacher, arms)
    assert [entry['seeds'] for entry in summary['arms'].values()] == [0, 0, 0]
    assert len(study['markdown'](summary).splitlines()) == 2


def test_without_a_teacher_there_is_none(study, plan):
    summary = study['summarise']('digits', *plan())
    assert (summary['teacher'], summary['finished']) == (None, 0)
