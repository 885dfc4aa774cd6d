"""Settings of the site; `make docs` builds it."""

import sys
from pathlib import Path

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

# The tutorial is executed in each build: a notebook that fails, fails the build.
nb_execution_mode = 'force'
nb_execution_timeout = 180
nb_execution_raise_on_error = True

# The API, from docstrings in Google's style.
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
add_module_names = False
napoleon_numpy_docstring = False

html_theme = 'furo'
html_title = f'cakd_mm {release}'
html_math_renderer = 'mathml'
html_theme_options = {
    'source_repository': repository,
    'source_branch': 'main',
    'source_directory': 'docs/',
}
