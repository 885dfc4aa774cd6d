"""The wording of errors."""

from cakd_mm.utils.errors import start_of


def test_a_long_text_ends_with_a_whole_word():
    error = ValueError('This can\nhappen if the checkpoint was cut.')
    assert start_of(error, 100) == 'This can happen if the checkpoint was cut'
    assert start_of(error, 34) == 'This can happen if the ...'
