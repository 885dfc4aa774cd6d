"""Links from pages to files of the repository that are no pages of the site.

In the Markdown they are relative paths, which work in a checkout and on GitHub. In the
site they lead to the page that shows the file, if there is one, or else to GitHub.
"""

import os
from pathlib import Path

from docutils import nodes
from generated_pages import ROOT, page_of
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.typing import ExtensionMetadata


class RepositoryLinks(SphinxTransform):
    """Gives links to files and folders of the checkout an address."""

    # MyST has made the nodes, and nothing has looked the files up yet.
    default_priority = 100

    def apply(self, **kwargs: object) -> None:
        """Replace each link to what lies in the checkout, but not in docs/."""
        here = Path(self.env.doc2path(self.env.docname)).parent
        for kind in (addnodes.download_reference, addnodes.pending_xref):
            for link in list(self.document.findall(kind)):
                if link.get('reftype') != 'myst' or link.get('refdomain') == 'doc':
                    continue
                path = Path(os.path.normpath(here / link['reftarget']))
                if path.exists() and path.is_relative_to(ROOT):
                    link.replace_self(self._link(link, path.relative_to(ROOT)))

    def _link(self, link: nodes.Element, path: Path) -> nodes.Element:
        page = page_of(path)
        if page is not None:
            found = addnodes.pending_xref(
                '',
                *link.children,
                refdomain='doc',
                reftarget=page,
                reftargetid=None,
                refdoc=self.env.docname,
                reftype='myst',
                refexplicit=True,
            )
            return found
        kind = 'tree' if (ROOT / path).is_dir() else 'blob'
        address = f'{self.config.repository}/{kind}/main/{path.as_posix()}'
        return nodes.reference('', '', *link.children, refuri=address)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the transform, and the config value with the repository's address."""
    app.add_config_value('repository', '', 'env', str)
    app.add_transform(RepositoryLinks)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
