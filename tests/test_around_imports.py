"""Something that is done around the import of a module."""

import importlib
import importlib.util
import sys
from contextlib import contextmanager

import pytest

from cakd_mm.around_imports import around_imports

FILES = {
    'around_a/__init__.py': "said = ['package']",
    'around_a/part.py': 'from around_a import said\nsaid.append("part")\nx = 1',
    'around_a/broken.py': 'raise KeyError("mine")',
    'around_b.py': 'from around_a import part',
}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Packages that can be imported, and are forgotten afterwards."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'meta_path', [*sys.meta_path])
    yield
    for name in [x for x in sys.modules if x.startswith('around_')]:
        del sys.modules[name]


@contextmanager
def noting(module):
    said = sys.modules['around_a'].said
    said.append(f'before {module.__name__}, {hasattr(module, "x")}')
    try:
        yield
    finally:
        said.append(f'after {module.__name__}, {hasattr(module, "x")}')


ORDER = [
    'package',
    'before around_a.part, False',
    'part',
    'after around_a.part, True',
]


@pytest.mark.parametrize('by', ['around_a.part', 'around_b'])
def test_whoever_imports_it_and_once(modules, by):
    finder = around_imports({'around_a.part': noting})
    importlib.import_module(by)
    importlib.import_module('around_a.part')
    package = sys.modules['around_a']
    assert package.said == ORDER
    assert package.part.x == 1
    # It is found as ever, by its own file and finder.
    assert package.part.__file__.endswith('part.py')
    assert importlib.util.find_spec('around_a.part').origin == package.part.__file__
    importlib.reload(package.part)
    assert package.said[4:] == [
        'before around_a.part, True',
        'part',
        'after around_a.part, True',
    ]
    assert finder in sys.meta_path


def test_what_is_there_already(modules):
    package = importlib.import_module('around_a')
    importlib.import_module('around_a.part')
    around_imports({'around_a.part': noting})
    assert package.said == [
        'package',
        'part',
        'before around_a.part, True',
        'after around_a.part, True',
    ]


def test_two_who_watch_the_same_module(modules):
    for _ in range(2):
        around_imports({'around_a.part': noting})
    assert importlib.import_module('around_a.part').said == [
        'package',
        *['before around_a.part, False'] * 2,
        'part',
        *['after around_a.part, True'] * 2,
    ]


def test_an_import_that_fails_leaves_the_context(modules):
    around_imports({'around_a.broken': noting, 'around_a.missing': noting})
    package = importlib.import_module('around_a')
    with pytest.raises(KeyError, match='mine'):
        importlib.import_module('around_a.broken')
    assert [x.split()[0] for x in package.said] == ['package', 'before', 'after']
    assert 'around_a.broken' not in sys.modules
    with pytest.raises(ModuleNotFoundError, match=r"'around_a\.missing'"):
        importlib.import_module('around_a.missing')


def test_a_context_may_replace_the_error(modules):
    @contextmanager
    def explain(_):
        try:
            yield
        except KeyError as error:
            raise ImportError('explained') from error

    around_imports({'around_a.broken': explain})
    with pytest.raises(ImportError, match='explained'):
        importlib.import_module('around_a.broken')
