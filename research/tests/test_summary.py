"""Statistics and sentences, on numbers made up here."""

import json

import pytest
from finished import START, finish_run
from matplotlib.axes import Axes
from scipy import stats

from research.page import heading, inline, page
from research.plan import plan
from research.plots import plot_curves, plot_gain
from research.summary import collapsed, conclude, summarise
from research.tables import select

STUDENT = {0: 60.0, 1: 61.0, 2: 62.0}


def shifted(by, noise=(0.0, 0.1, -0.1)):
    return {seed: x + by + noise[seed] for seed, x in STUDENT.items()}


SCORES = {'teacher': {0: 80.0}, 'student': STUDENT, 'KD': shifted(2)}


class TestConclude:
    def test_above_below_and_neither(self):
        rows = {'KD': shifted(2), 'OFD': shifted(-1), 'CRD': shifted(0.1)}
        level, alone, kd, last = conclude({'student': STUDENT, **rows}, 0.3)
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

    def test_cakd_meets_its_rivals_and_controls(self):
        gains = dict(KD=1, DKD=2, NKD=2) | {'CAKD logit': 3, 'control: random mask': 3}
        rows = {name: shifted(gain) for name, gain in gains.items()}
        sentences = ' '.join(conclude({'student': STUDENT, **rows}, 0.0))
        assert 'Against DKD: above: CAKD logit (+1.00 ± 0.00).' in sentences
        assert 'Against NKD: above: CAKD logit (+1.00 ± 0.00).' in sentences
        assert (
            'Against the control, random mask: not told apart from it: CAKD logit '
            '(+0.00 ± 0.00).'
        ) in sentences
        # 5 with the student, 4 with KD, 3 of CAKD's.
        assert 'Each of the 12 comparisons' in sentences

    @pytest.mark.parametrize(
        ('student', 'moves', 'said'),
        [
            (STUDENT, 1.0, 'its mean differs by 1.00 points'),
            (STUDENT, 3.7, 'its mean differs by 3.70 points'),
            (STUDENT, None, 'cannot be told, and no ranking is stated'),
            ({}, None, 'nothing to compare with'),
        ],
    )
    def test_no_ranking_before_the_student_has_levelled_off(self, student, moves, said):
        [only] = conclude({'student': student, 'KD': shifted(9)}, moves)
        assert said in only
        assert ('no ranking is stated' in only) is bool(student)
        assert 'KD' not in only

    def test_one_seed_concludes_nothing(self):
        sentences = conclude({'student': {0: 60.0}, 'KD': {0: 70.0}}, 0.0)
        assert 'no difference here is more than an observation' in sentences[-1]
        assert 'not told apart from it: KD (+10.00 (one seed))' in sentences[1]


def test_a_run_that_has_not_learned_is_named_beside_a_plain_student():
    assert collapsed({'student': {}, 'KD': {0: 1.0}}) == []
    assert collapsed(SCORES) == []
    rows = {'KD': {0: 62.0, 1: 30.51, 2: 30.49}, 'CRD': {0: 1.0}}
    [both] = collapsed({**SCORES, **rows})  # below half of 61
    found = '**Not learned: KD, seed 2 (30.49 %); CRD, seed 0 (1.00 %)**'
    assert both.startswith(f'{found}: below half of the plain student.')


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Plans whose runs have ended with the scores given by row."""
    monkeypatch.chdir(tmp_path)

    def build(table, scores, epochs=None, pairs=None, seeds=3):
        methods = [name for name in scores if name not in ('teacher', 'student')]
        chosen = select(table, pairs, methods)
        [pair] = planned = plan(chosen, seeds, tmp_path / 'runs', 'lossless', epochs)
        for name, found in scores.items():
            runs = {0: pair.teacher} if name == 'teacher' else pair.rows[name]
            for seed, score in found.items():
                finish_run(runs[seed], [score - 0.1, score, score, score, score])
        return planned

    return build


def summary_of(planned, table='digits'):
    """The summary and the page of it."""
    summary = summarise(planned, 'lossless')
    return summary, page(table, summary, 'command', {'gain': 'x.png'})


def test_numbers_are_those_of_the_seeds(make):
    summary, text = summary_of(make('digits', SCORES))
    [pair] = summary['pairs']
    assert (summary['finished'], summary['planned']) == (7, 7)
    assert summary['commits'] == []  # finish_run starts no process
    assert pair['teacher']['top1'] == 80.0
    assert pair['student_moves'] == pytest.approx(0.1)
    assert 'levelled off' in pair['sentences'][0]
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
    assert 'All in float32, every lossless setting of docs/guides/speed.md.' in text
    assert '![gain](x.png)' in text


def test_missing_seeds_are_said_first(make):
    planned = make('digits', SCORES, seeds=4)
    (planned[0].rows['KD'][1].work_dir / 'result.json').unlink()  # half-written
    summary, text = summary_of(make('digits', {'KD': {}}, seeds=4))
    [pair] = summary['pairs']
    assert (summary['finished'], set(pair['rows']['KD']['scores'])) == (6, {0, 2})
    assert pair['rows']['KD']['over']['student']['pairs'] == 2
    assert pair['sentences'][0].startswith('3 of the planned runs are missing: ')
    assert '3 missing: this page is not complete' in text
    assert '| KD | 2 of 4 | 62.95 ± 1.34 | +1.95 ± 0.64 (2 seeds) |' in text


def test_failures_are_shown(make):
    planned = make('digits', {**SCORES, 'KD': {0: 61.0}})
    for seed in (1, 2):
        planned[0].rows['KD'][seed].note_failure('exit status 1: nan')
    summary, text = summary_of(planned)
    over = summary['pairs'][0]['rows']['KD']['over']['student']
    assert over == dict(mean=1.0, half=None, pairs=1)
    assert '- **Failed: KD, seed 1**: exit status 1: nan' in text
    assert '| KD | 1 of 3 | 61.00 | +1.00 (one seed) |' in text


def test_a_table_that_has_hardly_begun_has_a_page_and_plots(make, tmp_path):
    planned = make('digits', {'KD': {}})
    summary, text = summary_of(planned)
    assert '| student | 0 of 3 | not run |' in text
    assert 'The teacher is not finished.' in text
    for plot in (plot_gain, plot_curves):
        plot(summary, 'title', tmp_path / 'plot.png')
    planned[0].teacher.note_failure('exit status 2: no data')
    for run in planned[0].rows['KD'].values():
        run.note_failure('not run, because it failed')
    _, text = summary_of(planned)
    assert '**The teacher failed**: exit status 2: no data' in text
    assert '| KD | 0 of 3 | failed |' in text


def paper(make, student=STUDENT, epochs=None, teacher=51.28):
    scores = {'teacher': {0: teacher}, 'student': student, 'KD': shifted(2)}
    if teacher is None:
        del scores['teacher']
    return summary_of(make('II', scores, epochs, ['r56_r20']), 'II')


def test_at_the_recipes_length_the_paper_stands_beside(make):
    summary, text = paper(make)
    assert heading('II', summary) == 'Table II'
    held_out = dict(summary, held_out=True)
    assert 'students scored on held-out training images' in heading('II', held_out)
    assert '| paper | ours - paper |' in text
    assert '| KD | 3 of 3 | 63.00 ± 0.95 | +2.00 ± 0.25 |  | 43.61 | +19.39 |' in text
    assert 'Teacher: 51.28 %, trained for 240 epochs, seed 0 (paper: 50.78).' in text


def test_a_scaled_number_never_stands_beside_the_papers_unsaid(make):
    _, text = paper(make, epochs=30)
    assert text.startswith('# Table II, scaled: 30 of 240 epochs\n')
    assert '| paper, at 240 epochs: not comparable |' in text
    assert 'ours - paper' not in text
    assert '(paper: 50.78 at 240 epochs)' in text
    assert "against the paper's" not in text
    assert "against the paper's" not in paper(make, teacher=None)[1]


@pytest.mark.parametrize(
    ('student', 'expected'),
    [
        ({0: 42.0, 1: 43.0, 2: 42.5}, '(+0.50, -0.16): both within 1 point'),
        ({0: 44.0, 1: 44.0, 2: 44.0}, '(+0.50, +1.34): more than 1 point apart'),
    ],
)
def test_teacher_and_student_are_compared_with_the_papers(make, student, expected):
    sentence = paper(make, student)[0]['pairs'][0]['sentences'][0]
    assert expected in sentence
    assert "against the paper's 50.78 and 42.66" in sentence


def test_machines_are_those_that_trained(make):
    planned = make('digits', SCORES)
    for seed, machine in enumerate(('an H200', 'an H200', 'two cores')):
        path = planned[0].rows['KD'][seed].work_dir / 'result.json'
        start = {**START, 'commit': f'c{seed}', 'machine': machine}
        path.write_text(json.dumps({**json.loads(path.read_text()), 'starts': [start]}))
    summary, text = summary_of(make('digits', {'KD': {}}))
    assert summary['machines'] == ['an H200', 'two cores']
    assert summary['commits'] == ['c0', 'c1', 'c2']
    assert 'process hours on an H200 and two cores. Commit c0, c1, c2; torch 2.' in text


@pytest.mark.parametrize(
    ('text', 'escaped'),
    [
        ('a | b\n\n# c', r'a \| b # c'),
        ('`x` **y** _z_ ~w~ $v$', r'\`x\` \*\*y\*\* \_z\_ \~w\~ \$v\$'),
        (
            '<img src=x> &lt; [t](http://x.y)',
            r'\<img src=x\> \&lt; \[t\](http:\/\/x.y)',
        ),
        ('www.x.y me@x.y', r'www\.x.y me\@x.y'),
        ('cakd_mm 2.1, Xeon(R) @ 2.1GHz', 'cakd_mm 2.1, Xeon(R) @ 2.1GHz'),
        ('\x1b[31mred\u202e \udcff', r'\[31mred \\udcff'),
    ],
)
def test_what_comes_from_elsewhere_is_text_in_a_page(text, escaped):
    assert inline(text) == escaped


def test_no_record_writes_markdown_into_a_page(make):
    planned = make('digits', SCORES)
    run = planned[0].rows['KD'][0]
    path = run.work_dir / 'result.json'
    evil = '| <b>\n# '
    start = {**START, 'commit': f'c{evil}', 'machine': f'm{evil}'}
    start['versions'] = {f'v{evil}': 1}
    path.write_text(json.dumps({**json.loads(path.read_text()), 'starts': [start]}))
    failed = planned[0].rows['KD'][1]
    (failed.work_dir / 'result.json').unlink()
    failed.note_failure(f'r{evil}')
    _, text = summary_of(make('digits', {'KD': {}}))
    for mark in 'cmvr':
        assert rf'{mark}\| \<b\> #' in text
    assert '<b>' not in text


def test_plots_show_every_row_but_one_far_away(make, tmp_path, monkeypatch):
    """One dead student of three makes an interval a hundred times as wide."""
    rows = {name: shifted(by) for name, by in (('KD', 1), ('DKD', 2), ('NKD', 1.5))}
    scores = {**SCORES, **rows, 'CMKD': {0: 61.0, 1: 10.0, 2: 63.0}}
    summary, _ = summary_of(make('digits', scores))
    over = {
        k: row['over'].get('student') for k, row in summary['pairs'][0]['rows'].items()
    }
    drawn, said, curves, limits = [], [], {}, []

    def watch(name, note):
        original = getattr(Axes, name)

        def call(axis, *args, **options):
            note(axis, args, options)
            return original(axis, *args, **options)

        monkeypatch.setattr(Axes, name, call)

    watch('errorbar', lambda axis, args, k: drawn.append((args[0], k['xerr'])))
    watch('annotate', lambda axis, args, k: said.append(args[0]))
    watch('set_title', lambda axis, args, k: limits.append(axis.get_xlim()))
    watch('plot', lambda axis, args, k: curves.update({k.get('label'): args[:2]}))
    plot_gain(summary, 'title', tmp_path / 'gain.png')
    assert drawn == [(over[k]['mean'], over[k]['half']) for k in ('NKD', 'DKD', 'KD')]
    [(low, high)] = limits
    assert -5 < low < high < 5
    [text] = said
    assert text.startswith(f'{over["CMKD"]["mean"]:+.2f}')
    assert text.endswith('not drawn')
    curves.clear()
    plot_curves(summary, 'title', tmp_path / 'curves.png')
    assert {'student: 61.00', 'KD: 62.00', 'CMKD: 44.67'} <= set(curves)
    epochs, means = curves['KD: 62.00']
    assert epochs == [26, 27, 28, 29, 30]
    assert means == pytest.approx([61.9, 62.0, 62.0, 62.0, 62.0])
    assert all((tmp_path / f'{name}.png').is_file() for name in ('gain', 'curves'))


def test_a_protocols_comparisons_are_made_and_no_others(make):
    draw = {0: 61.0, 1: 61.5, 2: 60.8}
    rows = {
        'DKD': {seed: 62 + x / 10 for seed, x in draw.items()},
        'KD, standardized': {seed: 62.5 + x / 10 for seed, x in draw.items()},
        'CAKD, 3 classes': {0: 69.0, 1: 68.7, 2: 69.2},
        'control: 3 random classes': {0: 68.9, 1: 68.8, 2: 69.0},
    }
    names = [*rows, 'KD']
    chosen = select('beyond', methods=names)
    assert {r.name: r.compared_with for r in chosen[0].rows}['KD, standardized'] == (
        'CAKD logit & single, network',
        'DKD',
        'KD',
    )
    summary, _ = summary_of(make('beyond', {**SCORES, **rows, 'KD': shifted(0.5)}))
    sentences = summary['pairs'][0]['sentences']
    against = [s for s in sentences if s.startswith('Against')]
    told = {s.split(':')[0].removeprefix('Against '): s for s in against}
    assert 'KD, standardized' in told['KD']
    assert 'CAKD' not in told['KD']
    assert 'control: 3 random' not in told['DKD']
    assert 'CAKD, 3 classes (+0.07 ± ' in told['the control, 3 random classes']
    # Of 0.5 points for each of three seeds there is no doubt, of 0.07 there is.
    together = sentences[-1]
    assert together.startswith('4 of these comparisons were planned.')
    assert 'KD, standardized over DKD (+0.50' in together
    assert 'control' not in together
