"""What the site shows is found, and its pages lead somewhere.

`make docs` builds it with warnings as errors; this needs no Sphinx.
"""

import fnmatch
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pages import ROOT

DOCS = ROOT / 'docs'
METHODS = sorted(file.parent for file in (ROOT / 'configs').glob('*/metafile.yml'))
FENCED = re.compile(r'^ *```.*?^ *```$', flags=re.MULTILINE | re.DOTALL)
TOCTREE = re.compile(r'```\{toctree\}\n(.*?)```', flags=re.DOTALL)
LINK = re.compile(r'\]\((?![a-z]+:)([^)\s]+)\)')


@pytest.fixture
def site(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / '_ext'))
    import generated_pages

    return generated_pages


def named_in_toctrees(page: str, text: str, known: set[str]) -> set[str]:
    """Return the pages that the toctrees of a page name, by name or by pattern."""
    folder = Path(page).parent
    lines = [line for block in TOCTREE.findall(text) for line in block.splitlines()]
    found: set[str] = set()
    for line in lines:
        if line and not line.startswith(':'):
            found |= set(fnmatch.filter(known, (folder / line).as_posix()))
    return found


def test_every_page_is_reached_from_the_first(site):
    texts = site.pages()
    made = ('_build', '_ext', *site.MADE_FOLDERS)
    for suffix in ('.md', '.ipynb'):
        for path in DOCS.rglob(f'*{suffix}'):
            page = path.relative_to(DOCS).with_suffix('').as_posix()
            if not page.startswith(made) and page not in texts:
                texts[page] = path.read_text(encoding='utf-8')
    reached, new = set(), {'index'}
    while new:
        reached |= new
        known = texts.keys() - reached
        new = {
            name
            for page in new
            for name in named_in_toctrees(page, texts[page], set(known))
        }
    assert reached == texts.keys()
    assert {f'methods/{folder.name}' for folder in METHODS} <= reached


@pytest.mark.parametrize('folder', METHODS, ids=lambda folder: folder.name)
def test_a_page_has_equation_differences_numbers_and_parameters(site, folder):
    page = site.method_page(folder)
    assert '```math\n' in page
    assert '\n## What differs from the public code\n\n' in page
    metafile = yaml.safe_load((folder / 'metafile.yml').read_text())
    published = {
        model['Metadata'].get('Published Top 1 Accuracy')
        for model in metafile['Models']
    } - {None}
    assert all(f'| {number:.2f} |' in page for number in published)
    kinds = site.classes(folder)
    assert kinds
    for kind in kinds:
        assert f'.. autoclass:: {kind.__module__}.{kind.__name__}\n' in page
        # MMRazor says nothing of some of its own, and then the README does.
        lacking = {name for name in undocumented(kind) if f'`{name}`' not in page}
        assert not lacking, f'the docstring of {kind.__name__} lacks {lacking}'


def undocumented(kind: type) -> set[str]:
    """Return the parameters of a class that its docstring says nothing of."""
    text = inspect.getdoc(kind) or ''
    return {
        name
        for name in inspect.signature(kind).parameters
        if not re.search(rf'^ +\*{{0,2}}{name}\b.*:', text, flags=re.MULTILINE)
    }


def test_what_was_measured_stands_on_the_page(site):
    """The numbers are those of all tables that have DKD, and of no other row."""
    page = site.method_page(ROOT / 'configs' / 'dkd')
    rows = [line for line in page.splitlines() if 'results/tables/' in line]
    assert [re.findall(r'[+\d.]+ ± [\d.]+', row) for row in rows] == [
        ['74.88 ± 0.35', '+4.62 ± 0.61'],
        ['74.79 ± 0.51', '+3.88 ± 3.37'],
        ['74.82 ± 0.42', '+3.93 ± 1.20'],
        ['98.49 ± 0.25', '+0.38 ± 0.31'],
    ]
    assert [row.split('|')[4].strip() for row in rows] == ['5', '3', '5', '3']


def test_a_method_that_was_not_measured_says_so(site):
    page = site.method_page(ROOT / 'configs' / 'dist')
    assert 'Nothing of it has been measured here yet.' in page


def test_links_are_moved_with_their_page(site):
    text = """[a](dkd.py) [b](../../docs/index.md#top) [c](https://x.org/y.md)
![d](e.png) [f](#here)
```python
x['a'](y)
```
"""
    assert (
        site.moved(text, Path('configs/dkd/README.md'), 'methods/dkd')
        == """[a](../../configs/dkd/dkd.py) [b](../index.md#top) [c](https://x.org/y.md)
![d](../../configs/dkd/e.png) [f](#here)
```python
x['a'](y)
```
"""
    )


def test_a_generated_pages_buttons_lead_to_its_source(site):
    pytest.importorskip('sphinx')
    import repository_links

    app = SimpleNamespace(config=SimpleNamespace(repository='https://x.org/y'))

    def buttons(page):
        context = {'page_source_suffix': '.md'}
        repository_links.point_buttons(app, page, 'page.html', context, None)
        return context

    assert buttons('guides/pair') == {'page_source_suffix': '.md'}
    assert buttons('methods/index') == {'page_source_suffix': ''}
    found = buttons('methods/dkd')
    path = 'main/configs/dkd/README.md'
    assert found['theme_source_view_link'] == f'https://x.org/y/blob/{path}'
    assert found['theme_source_edit_link'] == f'https://x.org/y/edit/{path}'


def test_a_brace_without_its_partner_is_refused(site):
    pytest.importorskip('sphinx')
    import mathml

    mathml.check_braces(r'\left\{ \frac{1}{2} \right.')
    with pytest.raises(mathml.MathError, match='no partner'):
        mathml.check_braces(r'\frac{1')


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)', FENCED.sub('', text), flags=re.MULTILINE)
    plain = [re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings]
    return {heading.replace(' ', '-') for heading in plain}


def name_of(path: Path) -> str | None:
    """Return the name of a page of the site."""
    inside = path.is_relative_to(DOCS) and path.suffix == '.md'
    return path.relative_to(DOCS).with_suffix('').as_posix() if inside else None


def written(generated: set[str]) -> list[Path]:
    """Return the Markdown that people write."""
    return [
        path
        for pattern in ('*.md', 'docs/**/*.md', 'configs/**/*.md', 'research/**/*.md')
        for path in ROOT.glob(pattern)
        if '_build' not in path.parts and name_of(path) not in generated
    ]


def test_relative_links_lead_to_files_and_anchors(site):
    generated = {*site.sources().values(), 'methods/index'}
    broken = []
    for page in written(generated):
        text = page.read_text(encoding='utf-8')
        for link in LINK.findall(FENCED.sub('', text)):
            path, _, anchor = link.partition('#')
            target = (page.parent / path).resolve() if path else page
            found = target.exists() or name_of(target) in generated
            if found and anchor and target.is_file():
                found = anchor in anchors(target.read_text(encoding='utf-8'))
            if not found:
                broken.append(f'{page.relative_to(ROOT)}: {link}')
    assert not broken
