"""``--cfg-options``: values are read as they are meant, and texts go through whole."""

import argparse
import shlex

import hypothesis.strategies as st
import pytest
from hypothesis import assume, example, given
from mmengine.config import DictAction

from cakd_mm.engine.launch.options import OptionAction, parse, spell

WORDS = st.text('ab01.-+e_/=:é{}<>', max_size=6)
CONSTANTS = st.sampled_from(['None', 'True', 'false', 'nan', '1e-3', '-7', ''])
SCALARS = st.one_of(WORDS, CONSTANTS, st.floats().map(str))


def _in_brackets(elements):
    lists = st.lists(elements, max_size=4).map(','.join)
    return st.one_of(lists.map('[{}]'.format), lists.map('({})'.format))


NESTED = st.recursive(SCALARS, _in_brackets, max_leaves=12)
VALUES = st.one_of(NESTED, st.lists(NESTED, max_size=4).map(','.join))


def read(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
    return parser.parse_args(['--cfg-options', *words]).cfg_options


@given(VALUES)
def test_without_quotes_and_spaces_it_is_read_as_mmengine_reads_it(text):
    assume(len(text) < 200)  # mmengine takes the third power of the length.
    try:
        expected = DictAction._parse_iterable(text)
    except (AssertionError, RecursionError):  # `[1],[2]`: only mmengine gives it up
        return
    assert repr(parse(text)) == repr(expected)  # nan is not equal to nan


@given(st.lists(SCALARS, min_size=1, max_size=4))
def test_spaces_around_commas_and_brackets_mean_nothing(words):
    close, wide = ','.join(words), ' , '.join(words)
    for spaced, plain in ((f' [ {wide} ] ', f'[{close}]'), (f' {wide} ', close)):
        assert repr(parse(spaced)) == repr(parse(plain))


@given(st.text(st.characters(exclude_categories=())))
@example('/my dir/a, b (2)/é/it\'s "[x]"\\n\n\ud800/1.pth')
@example('None')
def test_every_text_goes_through_as_it_is_spelled(text):
    assert parse(spell(text)) == text
    others = f'{spell("x")}, {spell(text)}, 1'
    assert parse(f'[({others}), {spell(text)},]') == [('x', text, 1), text]
    assert read(f'a.b={spell(text)}') == {'a.b': text}


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('/my dir (copy)/it\'s "x".pth', '/my dir (copy)/it\'s "x".pth'),
        ('[/my dir/a, /my dir/b]', ['/my dir/a', '/my dir/b']),
        ("'[1,2]'", '[1,2]'),
        ("'1', 1", ['1', 1]),
        ('(1,2),[3]', [(1, 2), [3]]),
        (r"'a\tb\'c'", "a\tb'c"),
    ],
)
def test_what_mmengine_would_have_changed(text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('[1,2', 'imbalanced'),
        ('1,2]', 'imbalanced'),
        ('[[1]', 'imbalanced'),
        ('f(1,2)', 'do not enclose it'),
        ('[(1,2])', 'do not enclose it'),
        ("['a, b]", 'does not end it'),
        ("'a' and 'b'", 'does not end it'),
        (r"'\x'", 'Python cannot read it'),
        ("dict(type='A')", 'An option is no dict'),
        ("[dict(type='A')]", 'An option is no dict'),
        ("{'type': 1}", 'An option is no dict'),
    ],
)
def test_what_cannot_be_read_is_named(capsys, text, problem):
    with pytest.raises(SystemExit):
        read(f'model.x={text}')
    error = capsys.readouterr().err
    assert '`model.x`' in error
    assert problem in error


def test_a_word_without_an_equals_sign_is_named(capsys):
    with pytest.raises(SystemExit):
        read('a=[1,2]', 'b')
    assert "'b': It has no `=`" in capsys.readouterr().err


@pytest.mark.parametrize(
    'word',
    [
        'model.teacher_ckpt=/a, b/x.pth',
        'train_dataloader.dataset.data_root=2024',
        'load_from=True',
        'dataset.ann_file=a,b',  # a file that is there
    ],
)
def test_a_path_that_would_become_something_else(capsys, tmp_path, monkeypatch, word):
    (tmp_path / 'a,b').touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        read(word)
    key, _, path = word.partition('=')
    error = capsys.readouterr().err
    assert f'`{key}` = {path!r}: A path is wanted' in error
    typed = error.rpartition(', write ')[2].strip().removesuffix('.')
    assert read(*shlex.split(typed)) == {key: path}


def test_options_given_twice_are_put_together():
    assert read('a=1', '--cfg-options', 'a=2', 'load_from=None') == {
        'a': 2,
        'load_from': None,
    }
