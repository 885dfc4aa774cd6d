"""Links from pages to files of the repository that are no pages of the site.

In the Markdown they are relative paths, which work in a checkout and on GitHub. In the
site they lead to the page that shows the file, if there is one, or else to GitHub. The
buttons of a generated page lead to the file that it is made of.
"""

import os
from pathlib import Path
from typing import Any

from docutils import nodes
from generated_pages import MADE_FOLDERS, ROOT, page_of, sources
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
        for kind in (addnodes.download_reference, addnodes.pending_xref):
            for link in list(self.document.findall(kind)):
                path = self._target(link)
                if path is not None and path.exists() and path.is_relative_to(ROOT):
                    link.replace_self(self._link(link, path.relative_to(ROOT)))

    def _target(self, link: nodes.Element) -> Path | None:
        """Return the file or folder that a link of MyST names, or None."""
        if link.get('reftype') != 'myst':
            return None
        if link.get('refdomain') != 'doc':
            here = Path(self.env.doc2path(self.env.docname)).parent
            return Path(os.path.normpath(here / link['reftarget']))
        # Of Markdown outside of docs/, MyST makes a page with an absolute name.
        page = Path(link['reftarget'])
        return page.with_name(f'{page.name}.md') if page.is_absolute() else None

    def _link(self, link: nodes.Element, path: Path) -> nodes.Element:
        anchor = link.get('reftargetid')
        page = page_of(path)
        if page is not None:
            return addnodes.pending_xref(
                '',
                *link.children,
                refdomain='doc',
                reftarget=page,
                reftargetid=anchor,
                refdoc=self.env.docname,
                reftype='myst',
                refexplicit=True,
            )
        kind = 'tree' if (ROOT / path).is_dir() else 'blob'
        address = f'{self.config.repository}/{kind}/main/{path.as_posix()}'
        address += f'#{anchor}' if anchor else ''
        return nodes.reference('', '', *link.children, refuri=address)


def point_buttons(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Let the buttons "view" and "edit" of a generated page lead to its source."""
    made_of = {shown: path.as_posix() for path, shown in sources().items()}
    if page in made_of:
        address = f'{app.config.repository}/{{}}/main/{made_of[page]}'
        context['theme_source_view_link'] = address.format('blob')
        context['theme_source_edit_link'] = address.format('edit')
    elif page.startswith(MADE_FOLDERS):
        context['page_source_suffix'] = ''  # it has no file, and so no buttons


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register transform and buttons, and the value with the repository's address."""
    app.add_config_value('repository', '', 'env', str)
    app.add_transform(RepositoryLinks)
    app.connect('html-page-context', point_buttons)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
