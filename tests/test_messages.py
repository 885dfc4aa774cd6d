"""docs/guides/when_a_run_looks_wrong.md quotes what the package really says."""

import ast
import re

import pytest
from pages import ROOT

PAGE = ROOT / 'docs/guides/when_a_run_looks_wrong.md'
ROW = re.compile(r'^\|[^|]+\|(?P<said>[^|]+)\|[^|]+\|$', re.MULTILINE)
QUOTE = re.compile(r'(`+)(?P<text>.+?)\1')


def quotes():
    """The messages in the second column."""
    cells = [row['said'] for row in ROW.finditer(PAGE.read_text(encoding='utf-8'))]
    cells = [x for x in cells if x.strip() not in ('---', 'What the run says')]
    found = [QUOTE.search(cell) for cell in cells]
    assert all(found), 'a row quotes nothing'
    return [match['text'] for match in found if match]


def flat(node):
    """The text of a literal, with ``...`` for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return ''.join(map(flat, node.values))
    return node.value if isinstance(node, ast.Constant) else '...'


@pytest.fixture(scope='module')
def literals():
    """All texts in the package, each on a line."""
    found = []
    for file in (ROOT / 'cakd_mm').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text or isinstance(node, ast.JoinedStr):
                found.append(flat(node).replace('\n', ' '))
    return '\n'.join(found)


@pytest.mark.parametrize('quote', quotes())
def test_a_quoted_message_is_in_the_source(quote, literals):
    parts = [re.escape(part) for part in quote.split('...')]
    assert re.search('.*'.join(parts), literals)


def test_the_page_has_a_row_for_each_kind():
    assert len(quotes()) > 40
