"""What is compared of several runs, and how."""

import pytest
from tiny_runs import DEMO, METRIC, steps, write_log

from cakd_mm.visualization.sweep import (
    DASH,
    MOST_COLUMNS,
    differing,
    draw_sweep,
    find_runs,
    label_of,
    part_of,
    read_sweep,
    settings_of,
    short_form,
    sweep_table,
)

TAU = 'model.distiller.distill_losses.loss_cakd.tau'


def make_run(work_dir, scores, seed=0, length=3, lines='', name='tau'):
    """Leave what a run leaves whose config changes the demo's by some lines."""
    work_dir.mkdir(parents=True)
    config = work_dir / f'{name}.py'
    text = f'_base_ = {str(DEMO)!r}\nrandomness = dict(seed={seed})\n'
    config.write_text(f'{text}train_cfg = dict(max_epochs={length})\n{lines}\n')
    log = steps([1.0] * max(len(scores), 1), per_epoch=1)
    log += [{METRIC: score, 'step': i} for i, score in enumerate(scores, 1)]
    write_log(work_dir, log, config=config)
    return work_dir


def with_tau(tau):
    """Return lines of a config that set tau of the demo's loss."""
    loss = f'loss_cakd=dict(tau={tau})'
    return f'model = dict(distiller=dict(distill_losses=dict({loss})))'


def rows_of(table):
    """Return the cells of a table, row by row."""
    lines = [line for line in table.splitlines() if line.startswith('|')]
    return [line.strip('| ').split(' | ') for line in lines[:1] + lines[2:]]


def columns(*configs):
    """Return what tells configs apart: each group's text by key."""
    groups = [settings_of(config) for config in configs]
    return {
        '.'.join(path): [short_form(part_of(own, path)) for own in groups]
        for path in differing(groups)
    }


@pytest.fixture
def three_taus(tmp_path):
    """A folder of finished runs, and of unfinished ones."""
    scores = {1: [50, 61, 62], 2: [50, 66, 64], 3: [50, 60, 69]}
    for seed, own in scores.items():
        make_run(tmp_path / f'deep/er/s{seed}', own, seed, lines=with_tau(2.0))
    make_run(tmp_path / 'one', [40, 41, 42.5], seed=5, lines=with_tau(8.0))
    make_run(tmp_path / 'stopped', [90, 99], seed=4, lines=with_tau(2.0))
    return tmp_path


def test_a_row_for_each_group(three_taus):
    sweep = read_sweep(find_runs([three_taus]))
    head, *rows = rows_of(sweep_table(sweep))
    assert head == ['config', 'seeds', 'epochs', 'last top-1 (%)', f'`{TAU}`']
    # statistics.stdev([62, 64, 69]); the unfinished run's 99 is in no mean, and the
    # best epochs (62, 66, 69) are not what is averaged.
    assert rows == [
        ['tau', '1, 2, 3', '3', '65.00 ± 3.61', '2.0'],
        ['tau', '4', '2 of 3, unfinished', '99.00', '2.0'],
        ['tau', '5', '3', '42.50', '8.0'],
    ]


def test_mean_curve_and_legend(three_taus):
    sweep = read_sweep(find_runs([three_taus]))
    assert dict(sweep.groups[0].mean_curve) == {1: 50, 2: (61 + 66 + 60) / 3, 3: 65}
    figure = draw_sweep(sweep)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        'tau, tau=2.0\n65.00 ± 3.61 % (3 seeds)',
        'tau, tau=8.0\n42.50 % (one seed)',
        'end of an unfinished run',
    ]
    whole = figure.axes[0]
    curves = [list(line.get_ydata()) for line in whole.lines]
    assert [50, 187 / 3, 65] in curves and [90, 99] in curves
    assert whole.get_xlabel() == 'epochs'
    colours = {line.get_color() for line in whole.lines if len(line.get_ydata()) > 1}
    assert len(colours) == 2
    low, high = figure.axes[1].get_ylim()
    assert low < 41 < 99 < high and low > 30


def test_a_group_without_finished_run(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f's{seed}', [10.0 + seed], seed)
    sweep = read_sweep(find_runs([tmp_path]))
    _, *rows = rows_of(sweep_table(sweep))
    assert [row[-3:] for row in rows] == [
        ['0', '1 of 3, unfinished', '10.00'],
        ['1', '1 of 3, unfinished', '11.00'],
    ]
    [legend] = draw_sweep(sweep).legends
    assert legend.get_texts()[0].get_text() == 'tau: unfinished'


def test_runs_are_found_once_and_however_deep(three_taus):
    (three_taus / 'logged nothing/20260101_000000/vis_data').mkdir(parents=True)
    write_log(three_taus / 'logged nothing either', [])
    deep = three_taus / 'deep'
    found = find_runs([deep / 'er/s2', three_taus])
    assert [path.name for path in found] == ['s2', 's1', 's3', 'one', 'stopped']
    assert find_runs([deep / 'er/s2']) == [deep / 'er/s2']


def test_a_folder_without_runs(three_taus, tmp_path_factory):
    empty = tmp_path_factory.mktemp('empty')
    with pytest.raises(FileNotFoundError) as caught:
        find_runs([three_taus, empty])
    assert f"`WORK_DIR` = '{empty}'" in str(caught.value)
    assert 'scalars.json' in str(caught.value)


def test_runs_without_score_are_named(tmp_path):
    make_run(tmp_path / 'young', [])
    with pytest.raises(ValueError, match='young.*no validation score'):
        read_sweep(find_runs([tmp_path]))
    make_run(tmp_path / 'old', [1.0, 2.0, 3.0])
    table = sweep_table(read_sweep(find_runs([tmp_path])))
    assert [row[-1] for row in rows_of(table)[1:]] == ['3.00']
    assert f'no validation score: {tmp_path / "young"}.' in table


def test_one_seed_twice_is_told(tmp_path):
    for name in ('a', 'b'):
        make_run(tmp_path / name, [1.0, 2.0, 3.0], seed=7)
    table = sweep_table(read_sweep(find_runs([tmp_path])))
    assert rows_of(table)[1][1] == '7, 7'
    assert f'same config and seed: {tmp_path / "a"}, {tmp_path / "b"}.' in table


def test_places_and_copies_make_no_group(tmp_path):
    lines = (
        "work_dir = 'b'\nload_from = 'b.pth'\nresume = True\nlauncher = 'slurm'\n"
        "experiment_name = 'b'\nlog_level = 'ERROR'\nmodel = dict(teacher_from='b')\n"
        'default_hooks = dict(checkpoint=dict(interval=9), logger=dict(interval=9))\n'
        "distiller = dict(of='the file')\ntest_dataloader = dict(batch_size=9)\n"
    )
    make_run(tmp_path / 'a', [1.0, 2.0, 3.0])
    make_run(tmp_path / 'b', [1.0, 2.0, 5.0], seed=1, lines=lines)
    make_run(
        tmp_path / 'c', [1.0, 2.0, 9.0], lines="model = dict(teacher_ckpt='c.pth')"
    )
    head, *rows = rows_of(sweep_table(read_sweep(find_runs([tmp_path]))))
    assert head[4:] == ['`model.teacher_ckpt`']
    assert [row[1:4] for row in rows] == [
        ['0, 1', '3', '4.00 ± 1.41'],
        ['0', '3', '9.00'],
    ]
    assert rows[1][4] == 'c.pth'


def test_much_that_differs_makes_no_long_label(tmp_path):
    for name in 'ab':
        place = '/'.join([name] * 30)
        lines = f'{with_tau(len(place))}\nload_from = {place!r}'
        make_run(tmp_path / name, [1.0, 2.0, 3.0], lines=lines)
    groups = read_sweep(find_runs([tmp_path])).groups
    assert label_of(groups[0], groups) == 'tau, load_from=' + '/'.join('a' * 30)
    make_run(tmp_path / 'c', [1.0], lines=f"load_from = '{'c' * 80}'")
    groups = read_sweep(find_runs([tmp_path])).groups
    assert label_of(groups[2], groups) == f'tau in {tmp_path / "c"}'


def test_parts_that_cannot_be_imported_here_stop_no_table(tmp_path):
    lines = "custom_imports = dict(imports=['not_here'], allow_failed_imports=False)"
    make_run(tmp_path / 'a', [1.0, 2.0, 3.0], lines=lines)
    assert read_sweep(find_runs([tmp_path])).groups[0].result == '3.00'


def test_a_run_from_before_a_hook_was_shipped(tmp_path):
    earlier = (
        "default_hooks = dict(_delete_=True, timer=dict(type='IterTimerHook'))\n"
        'env_cfg = dict(_delete_=True, cudnn_benchmark=False)\n'
    )
    make_run(tmp_path / 'a', [1.0, 2.0, 3.0], lines=earlier)
    make_run(tmp_path / 'b', [1.0, 2.0, 5.0], seed=1)
    make_run(tmp_path / 'c', [1.0, 2.0, 9.0], lines="load_from = 'c.pth'")
    changed = 'default_hooks = dict(finite=dict(interval=9))'
    make_run(tmp_path / 'd', [1.0, 2.0, 9.0], lines=changed)
    head, *rows = rows_of(sweep_table(read_sweep(find_runs([tmp_path]))))
    assert head[4:] == ['`load_from`', '`default_hooks.finite.interval`']
    assert [row[1:] for row in rows] == [
        ['0, 1', '3', '4.00 ± 1.41', '–', '–'],
        ['0', '3', '9.00', 'c.pth', '–'],
        ['0', '3', '9.00', '–', '9'],
    ]


def test_many_keys_are_lines_below_the_table(tmp_path):
    for name, start in (('a', 0), ('b', 1), ('c', 1)):
        keys = ', '.join(f'k{i}={start + i}' for i in range(MOST_COLUMNS + 1))
        lines = (
            f"model = dict(type='Net')\nval_cfg = dict(of={name!r}, part=dict({keys}))"
        )
        make_run(tmp_path / name, [1.0, 2.0, 3.0], lines=lines)
    table = sweep_table(read_sweep(find_runs([tmp_path])))
    head, *rows = rows_of(table)
    assert head == ['config', 'seeds', 'epochs', 'last top-1 (%)']
    assert [len(row) for row in rows] == [4, 4, 4]
    assert '- `val_cfg.part.k3`: 3 (tau); 4 (tau)\n' in table
    assert '- `val_cfg.of`: a (tau); b (tau); c (tau)\n' in table


def part(kind, count=8, **more):
    """Return a part of a config with many values."""
    return dict(type=kind, **{f'{kind}{i}': i for i in range(count)}, **more)


SCORER = dict(type='Network', width=4)
APART = {
    'a missing key is a dash': (
        [
            dict(model=dict(type='Net', tau=1.0, mean=[1, 2])),
            dict(model=dict(type='Net', mean=(1, 3), scorer=None)),
        ],
        {
            'model.tau': ['1.0', DASH],
            'model.mean': ['(1, 2)', '(1, 3)'],
            'model.scorer': [DASH, 'None'],
        },
    ),
    'values are compared, not how they are written': (
        [dict(a=[1, 2], b=1), dict(a=(1, 2), b=1.0)],
        {},
    ),
    'lists of parts, and names with dots': (
        [
            dict(hooks=[dict(type='A', at=1)], keys={'head.fc': dict(lr=1)}),
            dict(hooks=[dict(type='A', at=2)], keys={'head.fc': dict(lr=3)}),
            dict(hooks=[[dict(type='A', at=1)]], keys={}),
        ],
        {
            'hooks.0.at': ['1', '2', DASH],
            'hooks.0.type': ['A', 'A', DASH],
            'hooks.0.0.at': [DASH, DASH, '1'],
            'hooks.0.0.type': [DASH, DASH, 'A'],
            'keys.head.fc.lr': ['1', '3', DASH],
        },
    ),
    'a part that differs in all its many values is one column': (
        [dict(net=part('A')), dict(net=part('B')), {}],
        {'net': ['A', 'B', DASH]},
    ),
    'few values are columns of their own': (
        [dict(net=part('A', 7)), {}],
        {'net.type': ['A', DASH], **{f'net.A{i}': [str(i), DASH] for i in range(7)}},
    ),
    # A plain student beside two distilled ones must not hide how these differ.
    'what a short form hides is told': (
        [
            dict(model=part('Net')),
            dict(model=part('KD', loss=dict(tau=1))),
            dict(model=part('KD', loss=dict(tau=4))),
        ],
        {'model': ['Net', 'KD', 'KD'], 'model.loss.tau': [DASH, '1', '4']},
    ),
    'a part against a value': (
        [dict(loss=dict(scorer=None)), dict(loss=dict(scorer=SCORER))],
        {'loss.scorer': ['None', 'Network']},
    ),
    'a part without type is shown by its names': (
        [dict(taps=None), dict(taps=dict(head=SCORER, level=3))],
        {'taps': ['None', 'Network, level']},
    ),
}


@pytest.mark.parametrize('case', APART)
def test_what_tells_configs_apart(case):
    configs, expected = APART[case]
    assert columns(*configs) == expected


def test_a_run_of_iterations_without_seed(tmp_path):
    cfg = tmp_path / 'plain.py'
    cfg.write_text("train_cfg = dict(type='IterBasedTrainLoop', max_iters=20)\n")
    lines = [dict(loss=1.0, iter=20, step=20), {METRIC: 5.0, 'step': 20}]
    write_log(tmp_path / 'run', lines, config=cfg)
    head, row = rows_of(sweep_table(read_sweep([tmp_path / 'run'])))
    assert head == ['config', 'seeds', 'iterations', 'last top-1 (%)']
    assert row == ['run', DASH, '20', '5.00']


def test_two_ways_to_name_a_class_are_no_difference():
    named = [
        settings_of(dict(val_evaluator=dict(type=f'{scope}Accuracy'), type='x'))
        for scope in ('', 'mmpretrain.', 'mmpretrain.evaluation.', 'cakd_mm.models.')
    ]
    assert differing(named) == []
    scopes = [settings_of(dict(type=f'{x}EMAHook')) for x in ('', 'mmengine.')]
    assert differing(scopes) == [('type',)]
    assert settings_of(dict(source='mmpretrain.a')) == {('source',): 'mmpretrain.a'}
