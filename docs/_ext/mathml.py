"""Formulas as MathML, which every browser of today shows by itself.

Sphinx's other renderers fetch a script from the network, or need LaTeX or Node.
"""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

# A command, with the words that it sets, or a word.
PARTS = re.compile(r'(\\(?:text|mathrm|begin|end)\{[^}]*\}|\\[A-Za-z]+)|([A-Za-z]{2,})')


def words_upright(formula: str) -> str:
    r"""Return LaTeX in which a word is one name, and no product of its letters.

    Docstrings write ``mean(KL)``, because ``\mathrm{mean}(\mathrm{KL})`` is hard to
    read in the code.
    """
    return PARTS.sub(lambda part: part[1] or rf'\mathrm{{{part[2]}}}', formula)


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(tex2mathml(words_upright(node.astext())))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    formula = tex2mathml(words_upright(node.astext()), as_block=True)
    self.body.append(f'<div class="math-block">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the renderer; ``html_math_renderer = 'mathml'`` chooses it."""
    app.add_html_math_renderer('mathml', (_inline, None), (_block, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
