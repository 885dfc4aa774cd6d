"""Formulas as MathML, which every browser of today shows by itself.

Sphinx's other renderers fetch a script from the network, or need LaTeX or Node.
"""

import html
import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)
# A command, with the words that it sets, or a word.
PARTS = re.compile(r'(\\(?:text|mathrm|begin|end)\{[^}]*\}|\\[A-Za-z]+)|([A-Za-z]{2,})')


def words_upright(formula: str) -> str:
    r"""Return LaTeX in which a word is one name, and no product of its letters.

    Docstrings write ``mean(KL)``, because ``\mathrm{mean}(\mathrm{KL})`` is hard to
    read in the code.
    """
    return PARTS.sub(lambda part: part[1] or rf'\mathrm{{{part[2]}}}', formula)


def check_braces(formula: str) -> None:
    """Refuse a brace without its partner: docutils would leave out what it encloses.

    Raises:
        MathError: there is one.
    """
    braces = re.sub(r'\\[{}]', '', formula)  # a brace that is shown encloses nothing
    if braces.count('{') != braces.count('}'):
        raise MathError('A brace has no partner.')


def mathml(node: nodes.Element, as_block: bool = False) -> str:
    """Return a formula as MathML; one that is no LaTeX is shown as it is written."""
    formula = node.astext()
    try:
        check_braces(formula)
        return tex2mathml(words_upright(formula), as_block=as_block)
    except MathError as error:
        LOGGER.warning('%s: %s', formula, error, location=node)
        return f'<code>{html.escape(formula)}</code>'


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math-block">{mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the renderer; ``html_math_renderer = 'mathml'`` chooses it."""
    app.add_html_math_renderer('mathml', (_inline, None), (_block, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
