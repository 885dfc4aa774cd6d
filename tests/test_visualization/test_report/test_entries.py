"""Which runs belong together, and what each config is compared with."""

from pathlib import Path
from tempfile import mkdtemp

import pytest
from report_runs import CAKD, PLAIN, make_run

from cakd_mm.visualization.report.differences import gain, notes_on
from cakd_mm.visualization.report.entries import alone, entries_of, references
from cakd_mm.visualization.sweep import read_run

DEEPER = 'model = dict(backbone=dict(depth=14))'
OTHER_DATA = 'val_dataloader = dict(dataset=dict(indices=64))'
TAU = 'model=dict(distiller=dict(distill_losses=dict(loss_cakd=dict(tau=2.0))))'


@pytest.fixture
def entries(tmp_path):
    """Make runs of (name, base, seed, lines), and group them."""

    def make(*runs):
        work_dirs = []
        for place, (name, base, seed, lines) in enumerate(runs):
            folder = Path(mkdtemp(dir=tmp_path), name)
            scores = [5.0 + place]
            work_dirs.append(make_run(folder, base, scores, seed, 1, lines, name))
        return entries_of([read_run(work_dir) for work_dir in work_dirs])

    return make


def test_the_student_alone_is_that_of_the_same_net_and_images(entries):
    cakd, deep, other, plain = entries(
        ('cakd', CAKD, 0, ''),
        ('deep', PLAIN, 0, DEEPER),
        ('other', PLAIN, 0, OTHER_DATA),
        ('plain', PLAIN, 0, ''),
    )
    assert alone(cakd, [cakd, deep, other, plain]) is plain
    assert alone(cakd, [cakd, deep, other]) is None
    assert alone(plain, [cakd, plain]) is None
    assert references([cakd, deep, plain]) == {'cakd': plain}


def test_of_several_students_alone_the_one_with_its_seeds(entries):
    longer = 'optim_wrapper = dict(optimizer=dict(lr=0.9))'
    cakd, unlike, like = entries(
        ('cakd', CAKD, 1, ''), ('a', PLAIN, 1, longer), ('b', PLAIN, 1, '')
    )
    assert alone(cakd, [cakd, unlike, like]) is like
    cakd, with_seed, without = entries(
        ('cakd', CAKD, 1, ''), ('a', PLAIN, 1, longer), ('b', PLAIN, 2, '')
    )
    assert alone(cakd, [cakd, with_seed, without]) is with_seed


def test_without_a_student_alone_the_first_is_the_reference(entries):
    one, two = entries(('cakd', CAKD, 0, ''), ('cakd', CAKD, 0, TAU))
    assert (one.label, two.label) == ('cakd, tau=4.0', 'cakd, tau=2.0')
    assert references([one, two]) == {two.label: one}
    assert two.over(one).mean == 1.0
    assert (gain(two, one), gain(one, one)) == ('+1.00 (one seed)', '–')


def test_other_images_are_not_compared(entries):
    one, other, two = entries(
        ('a', CAKD, 0, ''), ('b', CAKD, 0, OTHER_DATA), ('c', CAKD, 0, TAU)
    )
    assert references([one, other, two]) == {'c': one}
    assert gain(other, one) == 'other images'


def test_runs_of_one_seed_and_of_none(entries):
    [entry] = entries(('p', PLAIN, 3, ''), ('p', PLAIN, 3, ''), ('p', PLAIN, None, ''))
    assert entry.top1 == {3: 5.5}
    several, none = notes_on([entry])
    assert '2 runs have the seed 3' in several and 'the mean of the 2' in several
    assert '1 run(s) without a seed' in none


def test_a_student_whose_file_has_gone_is_like_no_other(entries):
    gone = 'model = dict(architecture=dict(_delete_=True, cfg_path="gone.py"))'
    cakd, plain = entries(('cakd', CAKD, 0, gone), ('plain', PLAIN, 0, ''))
    assert alone(cakd, [cakd, plain]) is None


def test_students_of_others_are_the_same_by_all_of_their_arguments(entries):
    net = "dict(_delete_=True, type='TimmClassifier', model_name={!r}, num_classes=10)"
    small, large = (net.format(name) for name in ('resnet18', 'resnet34'))
    own = small.replace(
        'num_classes', 'data_preprocessor=dict(mean=[0.0]), num_classes'
    )
    cakd, unlike, like = entries(
        ('cakd', CAKD, 0, f'model = dict(architecture={small})'),
        ('a', PLAIN, 0, f'model = {large}'),
        ('b', PLAIN, 0, f'model = {own}'),
    )
    assert alone(cakd, [cakd, unlike]) is None
    assert alone(cakd, [cakd, unlike, like]) is like
