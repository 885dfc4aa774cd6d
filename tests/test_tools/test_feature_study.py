"""The statistics of ``feature_study.py``, on logs made up here."""

import json
import runpy

import pytest
from mmengine.config import Config
from scipy import stats

from cakd_mm.utils.runs import METRIC, Run


@pytest.fixture(scope='module')
def study():
    from tiny import CONFIGS

    return runpy.run_path(str(CONFIGS.parent / 'tools/analysis_tools/feature_study.py'))


def finished(tmp_path, name, scores, epochs=3, **options):
    """A run whose log has these scores after its last epochs."""
    config = tmp_path / 'config.py'
    config.write_text(f"train_cfg = dict(type='X', max_epochs={epochs})")
    run = Run(name, config, tmp_path / name, **options)
    folder = run.work_dir / '1' / 'vis_data'
    folder.mkdir(parents=True)
    first = epochs - len(scores) + 1
    lines = [json.dumps({METRIC: x, 'step': first + i}) for i, x in enumerate(scores)]
    (folder / 'scalars.json').write_text('\n'.join(lines))
    return run


def test_the_interval_is_that_of_the_paired_t_test(study):
    ours, control = [70.1, 71.3, 69.2, 70.0], [69.5, 70.2, 69.4, 69.1]
    differences = [a - b for a, b in zip(ours, control, strict=True)]
    mean, half = study['interval'](differences)
    expected = stats.ttest_rel(ours, control).confidence_interval(0.95)
    assert mean - half == pytest.approx(expected.low)
    assert mean + half == pytest.approx(expected.high)


def test_rows_are_compared_seed_by_seed(study, tmp_path):
    alone = [finished(tmp_path, f'a{i}', [x]) for i, x in enumerate((60.0, 61.0, 65.0))]
    logit = [finished(tmp_path, f'l{i}', [x]) for i, x in enumerate((62.0, 64.0))]
    logit.append(finished(tmp_path, 'half-way', [99.0], epochs=3))
    (logit[-1].work_dir / '1/vis_data/scalars.json').write_text(
        json.dumps({METRIC: 99.0, 'step': 2})
    )
    teacher = finished(tmp_path, 'teacher', [80.0])
    rows = {study['ALONE']: alone, study['LOGIT']: logit}
    summary = study['summarise']('digits', teacher, rows)
    entry = summary['rows']['logit']
    # The run that has not ended counts nowhere, the third seed in neither mean.
    assert (entry['seeds'], entry['each'], entry['mean']) == (2, [62.0, 64.0], 63.0)
    mean, half = entry['minus student alone']
    assert mean == 2.5
    assert half == pytest.approx(0.5 * stats.t.ppf(0.975, 1))
    assert summary['rows']['student alone']['mean'] == 62.0
    assert (summary['teacher'], summary['epochs']) == (80.0, 3)
    text = study['markdown'](summary)
    assert '| logit | 2 | 63.00 ± 1.41 | +2.50 ± 6.35 |  |' in text


def test_level_is_the_spread_of_the_mean_over_the_last_five_epochs(study, tmp_path):
    first = finished(tmp_path, 'a', [10, 60, 61, 62, 60, 60], epochs=6)
    second = finished(tmp_path, 'b', [90, 60, 61, 60, 60, 60], epochs=6)
    assert study['level']([first, second]) == 1.0  # means 60, 61, 61, 60, 60


@pytest.mark.parametrize('name', ['digits', 'cifar10'])
def test_every_row_of_the_study_is_planned(study, name):
    rows = study['row_configs'](name)
    kinds = {f'{kind}_{part}' for kind in ('single', 'logit-single') for part in PARTS}
    doubles = {f'logit-double_{part}' for part in ('activation', 'network')}
    alone, long = study['ALONE'], study['LONG']
    assert set(rows) == {alone, 'logit', long, *kinds, *doubles}
    assert rows[alone] == rows[long]
    assert study['controls_of']('single_network', name) == (
        *(alone, 'logit', 'single_random', 'single_kl'),
    )
    assert study['controls_of']('logit-double_network', name) == (alone, 'logit')


def test_every_method_is_a_row_of_the_methods_study(study):
    rows = study['row_configs']('methods')
    alone, long = study['ALONE'], study['LONG']
    methods = {*('kd', 'crd', 'ofd', 'ctkd', 'reviewkd', 'dkd', 'nkd', 'cmkd', 'dist')}
    assert set(rows) == {
        *(alone, long, 'cakd logit', 'cakd logit-single_network'),
        *methods,
    }
    assert study['controls_of']('dkd', 'methods') == (alone, 'kd')


PARTS = ('network', 'activation', 'classifier', 'random', 'kl', 'squared')


@pytest.mark.parametrize('name', ['digits', 'cifar10'])
def test_twice_as_long_stretches_the_whole_schedule(study, name):
    config = study['CONFIGS'] / study['STUDENTS'][name]
    own, twice = Config.fromfile(config), Config.fromfile(config)
    options = dict(option.split('=') for option in study['twice_as_long'](config))
    twice.merge_from_dict({key: eval(value) for key, value in options.items()})
    epochs = own.train_cfg.max_epochs
    assert twice.train_cfg.max_epochs == 2 * epochs
    assert [m / 2 for m in twice.param_scheduler.milestones] == list(
        own.param_scheduler.milestones
    )
    scored = epochs - own.train_cfg.get('val_begin', 1)
    assert twice.train_cfg.max_epochs - twice.train_cfg.val_begin == scored >= 4
