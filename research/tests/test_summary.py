"""Statistics and sentences, on numbers made up here."""

import json

import pytest
from scipy import stats
from tiny_runs import finish_run

from research.page import heading, page
from research.plan import plan
from research.plots import plot_curves, plot_gain
from research.summary import (
    collapsed,
    conclude,
    missing_seeds,
    summarise,
)
from research.tables import select

STUDENT = {0: 60.0, 1: 61.0, 2: 62.0}


def shifted(by, noise=(0.0, 0.1, -0.1)):
    return {seed: x + by + noise[seed] for seed, x in STUDENT.items()}


class TestConclude:
    def test_above_below_and_neither(self):
        scores = {
            'student': STUDENT,
            'KD': shifted(2),
            'OFD': shifted(-1),
            'CRD': shifted(0.1),
        }
        level, alone, kd, last = conclude(scores, 0.3)
        assert level.startswith(
            'Within this schedule the plain student had levelled off'
        )
        assert alone == (
            'Against the plain student: above: KD (+2.00 ± 0.25); below: OFD (-1.00 ± '
            '0.25); not told apart from it: CRD (+0.10 ± 0.25).'
        )
        assert kd.startswith('Against KD: below: OFD (-3.00 ± 0.00), CRD (-1.90')
        assert 'Each of the 5 comparisons' in last
        assert 'which makes 0.2 of them' in last
        assert 'their median half width is 0.25 points' in last

    @pytest.mark.parametrize('moves', [1.0, 3.7])
    def test_no_ranking_before_the_student_has_levelled_off(self, moves):
        [only] = conclude({'student': STUDENT, 'KD': shifted(9)}, moves)
        assert 'no ranking is stated' in only
        assert f'{moves:.2f} points' in only
        assert 'KD' not in only

    def test_cakd_meets_its_rivals_and_controls(self):
        scores = {
            'student': STUDENT,
            'KD': shifted(1),
            'DKD': shifted(2),
            'NKD': shifted(2),
            'CAKD logit': shifted(3),
            'control: random mask': shifted(3),
        }
        sentences = ' '.join(conclude(scores, 0.0))
        assert 'Against DKD: above: CAKD logit (+1.00 ± 0.00).' in sentences
        assert 'Against NKD: above: CAKD logit (+1.00 ± 0.00).' in sentences
        assert (
            'Against the control, random mask: not told apart from it: CAKD logit '
            '(+0.00 ± 0.00).'
        ) in sentences
        # 5 with the student, 4 with KD, 3 of CAKD's.
        assert 'Each of the 12 comparisons' in sentences

    def test_one_seed_concludes_nothing(self):
        scores = {'student': {0: 60.0}, 'KD': {0: 70.0}}
        sentences = conclude(scores, 0.0)
        assert 'no difference here is more than an observation' in sentences[-1]
        assert 'not told apart from it: KD (+10.00 (one seed))' in sentences[1]

    def test_without_the_student(self):
        [only] = conclude({'student': {}, 'KD': {0: 70.0}}, None)
        assert 'nothing to compare' in only

    def test_fewer_than_five_scores_rank_nothing(self):
        [only] = conclude({'student': STUDENT, 'KD': shifted(9)}, None)
        assert 'cannot be told, and no ranking is stated' in only


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Plans whose runs have ended with the scores given by row."""
    monkeypatch.chdir(tmp_path)

    def build(table, scores, epochs=None, pairs=None, seeds=3):
        methods = [name for name in scores if name not in ('teacher', 'student')]
        chosen = select(table, pairs, methods)
        [own] = planned = plan(chosen, seeds, tmp_path / 'runs', 'lossless', epochs)
        for name, found in scores.items():
            runs = {0: own.teacher} if name == 'teacher' else own.rows[name]
            for seed, score in found.items():
                finish_run(runs[seed], [score - 0.1, score, score, score, score])
        return planned

    return build


SCORES = {'teacher': {0: 80.0}, 'student': STUDENT, 'KD': shifted(2)}


def test_missing_seeds_are_said_first(make):
    [own] = make('digits', SCORES)
    assert missing_seeds(own, {name: SCORES[name] for name in own.rows}) == []
    [other] = make('digits', {}, seeds=5)
    assert missing_seeds(other, dict.fromkeys(other.rows, {}))[0].startswith('70 of ')


def test_missing_seeds_come_before_what_is_concluded(make):
    [pair] = summarise(make('digits', SCORES, seeds=5), 'lossless')['pairs']
    assert pair['sentences'][0].startswith('4 of the planned runs are missing: ')
    assert 'levelled off' in pair['sentences'][1]


def test_a_run_below_half_of_the_plain_student_is_named(make):
    scores = {**SCORES, 'KD': {0: 62.0, 1: 30.51, 2: 30.49}}
    [pair] = summarise(make('digits', scores), 'lossless')['pairs']
    assert pair['rows']['KD']['mean'] == pytest.approx(41.0)  # counted all the same
    assert pair['sentences'][0].startswith(
        '**Not learned: KD, seed 2 (30.49 %)**: below half of the plain student.'
    )


def test_a_run_is_called_collapsed_beside_a_plain_student_only():
    assert collapsed({'student': {}, 'KD': {0: 1.0}}) == []
    assert collapsed(SCORES) == []
    [both] = collapsed({**SCORES, 'KD': {1: 2.0}, 'CRD': {0: 1.0}})
    assert both.startswith('**Not learned: KD, seed 1 (2.00 %); CRD, seed 0 (1.00 %)**')


def test_numbers_are_those_of_the_seeds(make):
    planned = make('digits', SCORES)
    summary = summarise(planned, 'lossless')
    [pair] = summary['pairs']
    assert (summary['finished'], summary['planned']) == (7, 7)
    assert pair['teacher']['top1'] == 80.0
    assert pair['student_moves'] == pytest.approx(0.1)
    kd = pair['rows']['KD']
    assert kd['scores'] == shifted(2)
    assert kd['mean'] == pytest.approx(63.0)
    assert kd['std'] == pytest.approx(0.91**0.5)
    test = stats.ttest_rel(list(shifted(2).values()), list(STUDENT.values()))
    low, high = test.confidence_interval(0.95)
    over = kd['over']['student']
    assert over['mean'] - over['half'] == pytest.approx(low)
    assert over['mean'] + over['half'] == pytest.approx(high)
    assert 'KD' not in kd['over']
    assert kd['curves'][1][-1] == [30, shifted(2)[1]]


def test_half_written_runs_are_not_counted(make):
    planned = make('digits', SCORES)
    run = planned[0].rows['KD'][1]
    (run.work_dir / 'result.json').unlink()
    planned = make('digits', {'KD': {}})
    summary = summarise(planned, 'lossless')
    assert summary['finished'] == 6
    assert set(summary['pairs'][0]['rows']['KD']['scores']) == {0, 2}
    assert summary['pairs'][0]['rows']['KD']['over']['student']['pairs'] == 2
    text = page('digits', summary, 'command', {})
    assert '1 missing: this page is not complete' in text
    assert '| KD | 2 of 3 |' in text


def test_failures_are_shown(make):
    planned = make('digits', {**SCORES, 'KD': {0: 61.0}})
    for seed in (1, 2):
        planned[0].rows['KD'][seed].note_failure('exit status 1: nan')
    text = page('digits', summarise(planned, 'lossless'), 'command', {})
    assert '- **Failed: KD, seed 1**: exit status 1: nan' in text
    assert '| KD | 1 of 3 | 61.00 | +1.00 (one seed) |' in text


def test_a_teacher_that_failed_is_shown(make):
    planned = make('digits', {'KD': {}})
    planned[0].teacher.note_failure('exit status 2: no data')
    for run in planned[0].rows['KD'].values():
        run.note_failure('not run, because it failed')
    text = page('digits', summarise(planned, 'lossless'), 'command', {})
    assert '**The teacher failed**: exit status 2: no data' in text
    assert '| KD | 0 of 3 | failed |' in text


def paper(make, epochs=None):
    scores = {'teacher': {0: 51.28}, 'student': STUDENT, 'KD': shifted(2)}
    planned = make('II', scores, epochs, ['r56_r20'])
    summary = summarise(planned, 'lossless')
    return summary, page('II', summary, 'command', {'gain': 'x.png'})


def test_at_the_recipes_length_the_paper_stands_beside(make):
    summary, text = paper(make)
    assert heading('II', summary) == 'Table II'
    assert '| paper | ours - paper |' in text
    assert '| KD | 3 of 3 | 63.00 ± 0.95 | +2.00 ± 0.25 |  | 43.61 | +19.39 |' in text
    assert 'Teacher: 51.28 %, trained for 240 epochs, seed 0 (paper: 50.78).' in text
    assert '![gain](x.png)' in text


def test_a_scaled_number_never_stands_beside_the_papers_unsaid(make):
    summary, text = paper(make, epochs=30)
    assert text.startswith('# Table II, scaled: 30 of 240 epochs\n')
    assert '| paper, at 240 epochs: not comparable |' in text
    assert 'ours - paper' not in text
    assert '(paper: 50.78 at 240 epochs)' in text


@pytest.mark.parametrize(
    ('student', 'expected'),
    [
        ({0: 42.0, 1: 43.0}, '(+0.50, -0.16): both within 1 point'),
        ({0: 44.0, 1: 44.0}, '(+0.50, +1.34): more than 1 point apart'),
    ],
)
def test_teacher_and_student_are_compared_with_the_papers(make, student, expected):
    scores = {'teacher': {0: 51.28}, 'student': student}
    [own] = make('II', {**scores, 'KD': {}}, pairs=['r56_r20'])
    found = summarise([own], 'lossless')['pairs'][0]['sentences'][0]
    assert expected in found
    assert "against the paper's 50.78 and 42.66" in found


def test_a_scaled_or_unfinished_pair_is_not_compared_with_the_papers(make):
    scores = {'teacher': {0: 51.28}, 'student': STUDENT, 'KD': {}}
    for planned in (
        make('II', scores, 30, ['r56_r20']),
        make('II', {'student': STUDENT, 'KD': {}}, None, ['r56_r20']),
        make('digits', SCORES),
    ):
        text = page('II', summarise(planned, 'lossless'), 'command', {})
        assert "against the paper's" not in text


def test_what_it_was_made_with(make):
    summary, text = paper(make)
    assert summary['commits'] == []  # finish_run starts no process
    assert 'All in float32, every lossless setting of docs/speed.md.' in text


def test_machines_are_those_that_trained(make):
    planned = make('digits', SCORES)
    for seed, machine in enumerate(('an H200', 'an H200', 'two cores')):
        path = planned[0].rows['KD'][seed].work_dir / 'result.json'
        start = dict(commit=f'c{seed}', versions=dict(torch='2'), machine=machine)
        path.write_text(json.dumps({**json.loads(path.read_text()), 'starts': [start]}))
    planned = make('digits', {'KD': {}})
    summary = summarise(planned, 'bf16')
    assert summary['machines'] == ['an H200', 'two cores']
    assert summary['commits'] == ['c0', 'c1', 'c2']
    text = page('digits', summary, 'command', {})
    assert 'process hours on an H200 and two cores. Commit c0, c1, c2; torch 2.' in text
    assert 'Trained in bf16 (autocast), scored in float32.' in text


def test_fewer_common_seeds_are_said(make):
    text = page(
        'digits',
        summarise(make('digits', {**SCORES, 'KD': {0: 62.0, 1: 63.0}}), 'lossless'),
        'command',
        {},
    )
    assert '+2.00 ± 0.00 (2 seeds)' in text


def test_one_seed_has_no_interval_in_the_json(make):
    planned = make(
        'digits', {'teacher': {0: 80.0}, 'student': {0: 60.0}, 'KD': {0: 61}}
    )
    over = summarise(planned, 'lossless')['pairs'][0]['rows']['KD']['over']['student']
    assert over == dict(mean=1.0, half=None, pairs=1)


def test_a_table_that_has_hardly_begun_has_a_page_and_plots(make, tmp_path):
    planned = make('digits', {'KD': {}})
    summary = summarise(planned, 'lossless')
    text = page('digits', summary, 'command', {})
    assert '| student | 0 of 3 | not run |' in text
    assert 'The teacher is not finished.' in text
    for plot in (plot_gain, plot_curves):
        plot(summary, 'title', tmp_path / 'plot.png')


def test_plots_show_every_row(make, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    summary = summarise(make('digits', SCORES), 'lossless')
    drawn = []
    own = Axes.errorbar

    def errorbar(axis, x, y, **options):
        drawn.append((x, options['xerr']))
        return own(axis, x, y, **options)

    monkeypatch.setattr(Axes, 'errorbar', errorbar)
    plot_gain(summary, 'title', tmp_path / 'gain.png')
    over = summary['pairs'][0]['rows']['KD']['over']['student']
    assert drawn == [(over['mean'], over['half'])]
    curves = {}
    plot = Axes.plot
    monkeypatch.setattr(
        Axes,
        'plot',
        lambda axis, x, y, style, label: (
            curves.update({label: (x, y)}) or plot(axis, x, y, style, label=label)
        ),
    )
    plot_curves(summary, 'title', tmp_path / 'curves.png')
    assert set(curves) == {'student: 61.00', 'KD: 63.00'}
    epochs, means = curves['KD: 63.00']
    assert epochs == [26, 27, 28, 29, 30]
    assert means == pytest.approx([62.9, 63.0, 63.0, 63.0, 63.0])
    assert all((tmp_path / f'{name}.png').is_file() for name in ('gain', 'curves'))


def test_a_row_far_away_does_not_flatten_the_others(make, tmp_path, monkeypatch):
    """One dead student of three makes an interval a hundred times as wide."""
    from matplotlib.axes import Axes

    rows = {name: shifted(by) for name, by in (('KD', 1), ('DKD', 2), ('NKD', 1.5))}
    scores = {**SCORES, **rows, 'CMKD': {0: 61.0, 1: 10.0, 2: 63.0}}
    summary = summarise(make('digits', scores), 'lossless')
    limits, said = [], []
    title, annotate = Axes.set_title, Axes.annotate
    monkeypatch.setattr(
        Axes,
        'set_title',
        lambda axis, *a, **k: limits.append(axis.get_xlim()) or title(axis, *a, **k),
    )
    monkeypatch.setattr(
        Axes,
        'annotate',
        lambda axis, text, *a, **k: said.append(text) or annotate(axis, text, *a, **k),
    )
    plot_gain(summary, 'title', tmp_path / 'gain.png')
    [(low, high)] = limits
    assert -5 < low < high < 5
    [text] = said
    assert text.endswith('not drawn')
    assert text.startswith(
        f'{summary["pairs"][0]["rows"]["CMKD"]["over"]["student"]["mean"]:+.2f}'
    )
