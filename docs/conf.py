"""Settings of the site; `make docs` builds it."""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / '_ext')]

from cakd_mm.version import __version__  # noqa: E402

project = 'cakd_mm'
author = 'cakd_mm contributors'
project_copyright = f'2026, {author}'
version = release = __version__
repository = 'https://github.com/cakd-mm/cakd_mm'

extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    'generated_pages',
    'mathml',
    'repository_links',
]
exclude_patterns = ['_build', '_ext', '**.ipynb_checkpoints']
nitpicky = True

# Markdown. GitHub shows the same pages, so they use what both understand.
myst_enable_extensions = ['dollarmath']
myst_fence_as_directive = ['math']
myst_heading_anchors = 4

# The tutorial is executed in each build: a notebook that fails, fails the build. A cell
# has so many seconds, because a machine may be busy with other work.
nb_execution_mode = 'force'
nb_execution_timeout = 600
nb_execution_raise_on_error = True

# The API, from docstrings in Google's style.
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
add_module_names = False
napoleon_numpy_docstring = False
# The types of arguments are links in the signature, and plain text below it.
napoleon_use_param = False
napoleon_use_rtype = False
# Other packages have no pages here, and the network would be needed to find theirs.
# The words are those of types in the docstrings of attributes.
nitpick_ignore_regex = [
    (r'py:.*', r'(?!cakd_mm\b)\w+(\.\w+)+'),
    (
        r'py:class',
        r'Tensor|TermLabels|BaseModule|optional|tuple\[\w+|cakd_mm\.utils\.agreement\.T',
    ),
]

html_theme = 'furo'
html_title = f'cakd_mm {release}'
html_math_renderer = 'mathml'
html_static_path = ['_static']
html_css_files = ['site.css']
# Nothing leads to an index of all names, and the search finds them.
html_use_index = False
html_domain_indices = False
html_theme_options = {
    'source_repository': repository,
    'source_branch': 'main',
    'source_directory': 'docs/',
}


def docstring(
    app: Sphinx, kind: str, name: str, value: object, options: Any, lines: list[str]
) -> None:
    """Mend what Sphinx would misread in a docstring, before napoleon reads it."""
    text = '\n'.join(lines)
    # A name in a docstring stands for the object of that name in any module.
    text = re.sub(r'(:(?:class|func|meth):`)(?=\w)', r'\1.', text)
    if not name.startswith('cakd_mm'):
        # MMRazor indents some lines of an argument further, as if they were a quote.
        text = re.sub(r'^ {8,}', ' ' * 8, text, flags=re.MULTILINE)
    if options.no_index:
        # The page of a method, whose README has said the rest; the API has all of it.
        text = text[max(text.find('Args:'), 0) :]
    lines[:] = text.splitlines()


def setup(app: Sphinx) -> None:
    """Connect what this file defines; napoleon's own priority is 500."""
    app.connect('autodoc-process-docstring', docstring, priority=400)
