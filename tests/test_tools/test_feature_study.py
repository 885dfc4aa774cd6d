"""The statistics of ``feature_study.py``, on logs made up here."""

import runpy

import pytest
from mmengine.config import Config
from scipy import stats
from tiny_runs import finish_run, resolved, write_log

from cakd_mm.utils.runs import METRIC, Run


@pytest.fixture(scope='module')
def study():
    from tiny import CONFIGS

    return runpy.run_path(str(CONFIGS.parent / 'tools/analysis_tools/feature_study.py'))


def finished(tmp_path, name, scores, epochs=3, **options):
    """A run that has ended with these scores in its last epochs."""
    config = tmp_path / 'config.py'
    config.write_text(f"train_cfg = dict(type='X', max_epochs={epochs})")
    run = Run(name, config, tmp_path / name, **options)
    finish_run(run, scores)
    return run


def test_rows_are_compared_seed_by_seed(study, tmp_path):
    alone = [finished(tmp_path, f'a{i}', [x]) for i, x in enumerate((60.0, 61.0, 65.0))]
    logit = [finished(tmp_path, f'l{i}', [x]) for i, x in enumerate((62.0, 64.0))]
    logit.append(Run('half-way', tmp_path / 'config.py', tmp_path / 'half-way'))
    write_log(logit[-1].work_dir, [{METRIC: 99.0, 'step': 2}])
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


def test_a_row_that_is_not_there_is_refused(study, tmp_path):
    args = study['arguments'](None, ['digits']).parse_args(['digits'])
    args.rows = ['logit-single_netwrk']
    with pytest.raises(ValueError, match=r"--rows.*netwrk.*'logit-single_network'"):
        study['plan'](args)


def test_a_seed_given_twice_is_refused(study, capsys):
    parser = study['arguments'](None, ['digits'])
    assert parser.parse_args(['digits', '--seeds', '4', '0']).seeds == [4, 0]
    with pytest.raises(SystemExit):
        parser.parse_args(['digits', '--seeds', '1', '0', '1'])
    assert '--seeds [1, 0, 1] has a seed twice' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['digits', 'cifar10', 'methods'])
def test_cakd_has_no_warm_up_as_its_protocol_says(study, name, tmp_path):
    args = study['arguments'](None, [name]).parse_args([name, '--seeds', '0'])
    args.rows = None
    warmed = set()
    for row, [run] in study['plan'](args)[1].items():
        warmup = resolved(run).default_hooks.get('warmup')
        if warmup and warmup.epochs > 1:
            warmed.add(row)
    assert warmed == ({'dkd', 'reviewkd'} if name == 'methods' else set())
