"""What a report says of finished and unfinished runs."""

import pytest
from report_runs import CAKD, FOLDER, PLAIN, VALUE, make_run, read_page
from tiny import CONFIGS
from tiny_runs import METRIC, steps, write_log

from cakd_mm.visualization.report.report import report
from cakd_mm.visualization.sweep import find_runs

LABELS = ['c<b>akd', 'plain']


def of_runs(*work_dirs, images=0):
    return read_page(report(find_runs(work_dirs), images, print))


def lines_in(page, number):
    """Return the lines of a plot, without bands."""
    data = page.figures[f'plot-{number}']['data']
    return [trace for trace in data if 'text' in trace]


def test_means_and_bands_of_top1(page):
    whole = page.figures['plot-0']['data']
    assert len(whole) == 5  # two lines, their bands, and the unfinished run
    band, line, stopped = whole[:3]
    assert line['x'] == [1, 2, 3, 4, 5, 6]
    assert line['y'] == pytest.approx([60, 91, 93.5, 91, 91, 92.2])
    assert band['x'][5:7] == [6, 6] and band['y'][5:7] == [92.0, 92.4]
    words = line['text'][5].split('<br>')
    assert words == [
        'c&lt;b&gt;akd',
        'epoch 6',
        'mean 92.20',
        'seed 1: 92.00, seed 2: 92.40, seed 3: 92.20',
    ]
    assert (stopped['y'], stopped['line']['dash']) == ([70.0, 99.0], 'dot')
    assert whole[4]['y'][5] == pytest.approx(90.2)


def test_the_last_part_has_a_range_of_its_own(page):
    layout = page.figures['plot-1']['layout']
    # The shortest run has two scores, and 0.6 of them is 1.2.
    assert layout['xaxis']['range'] == pytest.approx([1.2, 6.12])
    assert layout['yaxis']['range'] == pytest.approx([89.55, 99.45])


def test_last_and_best(page):
    head, *rows = page.rows('Accuracy')
    assert head == ['config', 'seeds', 'epochs', 'last', 'best of each run']
    assert rows == [
        ['c<b>akd', '1, 2, 3', '6', '92.20 ± 0.20', '93.50 ± 0.00'],
        ['c<b>akd', '4', '2 of 6, unfinished', '99.00', '99.00'],
        ['plain', '1, 2, 3', '6', '90.20 ± 0.10', '90.20 ± 0.10'],
    ]


def test_differences_are_paired_with_the_student_alone(page):
    head, cakd, plain = page.rows('Table')
    assert head[:5] == ['config', 'seeds', 'last top-1 (%)', 'difference', 'to']
    # 1.9, 2.2 and 1.9: the mean, and 4.303 standard errors.
    assert cakd[:5] == ['c<b>akd', '3', '92.20 ± 0.20', '+2.00 ± 0.43', 'plain']
    assert plain[3:] == ['–', '–', '1: 90.10  2: 90.20  3: 90.30']
    text = page.section('Table')
    assert 'student alone (plain) had levelled off: its mean differs by 0.20' in text
    assert 'Against the student alone (plain): above: c<b>akd (+2.00 ± 0.43).' in text
    assert f'not finished: {FOLDER}' not in text  # The folder's parents are named too.
    assert f'{FOLDER}/stopped.' in text


def test_every_term_with_axis_and_numbers(page):
    text = page.section('Terms')
    assert 'BCD: between the clusters' in text
    assert 'Not drawn, 0 throughout: SCD: within the strong cluster.' in text
    # Of the unfinished run no term is logged.
    [line] = lines_in(page, 2)
    assert (line['x'], line['y']) == ([1, 2, 3, 4, 5, 6], [12, 10, 8, 6, 4, 2])
    layout = page.figures['plot-2']['layout']
    assert layout['yaxis']['title']['text'] == 'divergence × τ² (nats), no weight'
    assert layout['xaxis']['title']['text'] == 'epoch'
    rows = page.rows('Terms')
    assert ['BCD: between the clusters', 'c<b>akd', '1, 2, 3', '12', '2'] in rows
    assert ['loss: the sum of all', 'plain', '1, 2, 3', '1', '0.1667'] in rows


def test_configs_side_by_side_and_whole(page):
    head, *rows = page.rows('Configs')
    assert head == ['key', *LABELS]
    found = {key: values for key, *values in rows}
    assert found['model'] == ['FrozenTeacherDistill', 'ImageClassifier']
    assert found['auto_scale_lr.note'] == [VALUE, '–']
    assert page.text.count('<details>') == len(LABELS)
    assert 'CAKDLogitLoss' in page.section('Configs')


def test_what_was_run(page):
    rows = {row[0].rpartition('/')[2]: row for row in page.rows('Runs')[1:]}
    assert len(rows) == 7
    # Four steps of 0.25 s.
    assert rows['c2'][1:5] == ['c<b>akd', '2', '6 of 6 epochs', '1 s an epoch']
    assert rows['stopped'][3] == '2 of 6 epochs, unfinished'


def test_predictions_say_why_there_are_none(page, said):
    text = page.section('Predictions')
    assert 'No images for c<b>akd' in text and 'student.py' in text
    assert 'Put it there, or give --images 0' in text
    assert any('student.py' in sentence for sentence in said)


def test_nothing_of_a_run_becomes_a_part_of_the_page(page):
    """Tags of names and values are text; the browser's tests see it too."""
    shown = page.text.split('id="figures"')[0]
    assert '&lt;/script&gt;&lt;script&gt;window.hit' in shown
    assert page.text.count('<script') == 3 + page.text.count("'<script")
    assert '<img' not in shown and '<b>' not in shown


def test_one_run_without_a_teacher(tmp_path):
    page = of_runs(make_run(tmp_path / 'one', PLAIN, [50.0, 60.0], 7, 2))
    assert page.rows('Accuracy')[1] == ['x', '7', '2', '60.00', '60.00']
    assert page.rows('Table')[0] == ['config', 'seeds', 'last top-1 (%)', 'each seed']
    assert 'There is one config' in page.section('Configs')
    assert 'No run has a teacher' in page.section('Predictions')
    assert 'plot-1' in page.figures and lines_in(page, 0)[0]['y'] == [50.0, 60.0]


def test_a_run_that_was_not_validated_yet(tmp_path):
    page = of_runs(make_run(tmp_path / 'one', CAKD, [], cakd__bcd=[2.5]))
    assert 'No run has a top-1 of validation yet.' in page.section('Accuracy')
    assert 'No run that logs top-1 is finished yet.' in page.section('Table')
    assert lines_in(page, 0)[0]['y'] == [2.5]
    assert page.rows('Runs')[1][3] == '0 of 6 epochs'


def test_a_run_with_other_scores_is_not_called_unfinished(tmp_path):
    whole = make_run(tmp_path / 'whole', PLAIN, [50.0, 60.0], 7, 2)
    page = of_runs(whole, make_run(tmp_path / 'other', CAKD, []))
    assert 'Left out, because its log has no top-1' in page.section('Table')
    assert page.rows('Accuracy')[2][2:4] == ['0 of 6 scored', 'no top-1']


def test_iterations_and_values_that_are_no_numbers(tmp_path):
    config = tmp_path / 'by_iter.py'
    loop = "dict(_delete_=True, type='IterBasedTrainLoop', max_iters=20)"
    config.write_text(f'_base_ = {str(PLAIN)!r}\ntrain_cfg = {loop}\n')
    lines = [dict(loss=x, step=s) for s, x in ((10, float('nan')), (20, 2.0))]
    lines += [{METRIC: x, 'step': s} for s, x in ((10, 30.0), (20, 40.0))]
    write_log(tmp_path / 'run', lines, config=config)
    page = of_runs(tmp_path / 'run')
    assert page.figures['plot-0']['layout']['xaxis']['title']['text'] == 'iterations'
    assert lines_in(page, 0)[0]['x'] == [10, 20]
    loss = lines_in(page, 1)[0]
    assert (loss['x'], loss['y']) == ([10, 20], [None, 2.0])


def test_where_the_length_of_an_epoch_is_unknown_all_plots_count_steps(tmp_path):
    long = make_run(tmp_path / 'long', PLAIN, [5.0, 6.0], length=2)
    page = of_runs(make_run(tmp_path / 'short', PLAIN, [5.0], length=1), long)
    assert page.figures['plot-1']['layout']['xaxis']['title']['text'] == 'step'
    assert [line['x'] for line in lines_in(page, 1)] == [[4], [4, 8]]


def test_a_resumed_run(tmp_path):
    write_log(tmp_path, [*steps([1.0, 2.0], per_epoch=1), {METRIC: 5.0, 'step': 1}])
    again = [*steps([7.0], first=2, per_epoch=1), {METRIC: 9.0, 'step': 2}]
    write_log(tmp_path, again, '20260102_000000', CONFIGS / 'cakd/demo_digits.py')
    page = of_runs(tmp_path)
    assert lines_in(page, 0)[0]['y'] == [5.0, 9.0]
