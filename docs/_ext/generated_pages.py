"""Pages of the site that are made of what the repository has already.

Each method's page is its README, what was measured of it, and the docstrings of its
classes. Tables of `research/`, the changelog and CONTRIBUTING.md are pages too. So a
new method, or a new table, needs no edit here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from mmengine.config import Config
from mmrazor.registry import MODELS

from research.tables import STUDENT, read_tables

# Tests read the pages, and nothing but the site needs Sphinx.
if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
RESULTS = ROOT / 'research' / 'results'
# Folders of docs/ in which nobody writes.
MADE_FOLDERS = ('methods', 'results/tables')
FENCED = re.compile(r'(^```.*?^```$)', flags=re.MULTILINE | re.DOTALL)
# The target of a link or a picture that is a relative path.
RELATIVE = re.compile(r'(?<=\]\()(?![a-z]+:|#)([^)\s]+)')


def sources() -> dict[Path, str]:
    """Return which page shows which Markdown file; paths are the repository's."""
    found = {Path('CHANGELOG.md'): 'changelog', Path('CONTRIBUTING.md'): 'contributing'}
    for file in sorted(CONFIGS.glob('*/metafile.yml')):
        readme = file.with_name('README.md').relative_to(ROOT)
        found[readme] = f'methods/{file.parent.name}'
    for file in sorted(RESULTS.glob('table_*.md')):
        found[file.relative_to(ROOT)] = f'results/tables/{file.stem}'
    return found


def moved(text: str, source: Path, page: str) -> str:
    """Return Markdown whose relative links hold in another folder.

    Args:
        text (str): What stands in ``source``.
        source (Path): Its place in the repository.
        page (str): The page's name in the site, such as ``methods/dkd``.
    """
    folder = (ROOT / 'docs' / page).parent

    def relative(match: re.Match[str]) -> str:
        path, hash_, anchor = match[1].partition('#')
        target = os.path.relpath(ROOT / source.parent / path, folder)
        return f'{target}{hash_}{anchor}'

    parts = FENCED.split(text)
    parts[::2] = [RELATIVE.sub(relative, part) for part in parts[::2]]
    return ''.join(parts)


@dataclass(frozen=True)
class Measured:
    """What a table of ours found for a row.

    Args:
        table (str): The name of the table's page, such as ``table_digits``.
        pair (str): Nets and data in words.
        row (str): Its name in the table.
        config (Path): The config that was trained.
        scores (list[float]): Top-1 in percent, one for each seed.
        mean (float): Their mean.
        std (float, optional): Their standard deviation; None for a single seed.
        gain (dict, optional): ``mean`` and ``half`` width of the 95 % interval of the
            paired differences to the student alone; None where it is not known.
    """

    table: str
    pair: str
    row: str
    config: Path
    scores: list[float]
    mean: float
    std: float | None
    gain: dict[str, float] | None


def measured() -> Iterator[Measured]:
    """Yield the finished rows of all tables in ``research/results``."""
    for file in sorted(RESULTS.glob('table_*.json')):
        table = json.loads(file.read_text(encoding='utf-8'))
        if table.get('held_out'):  # because it was made to choose by
            continue
        known = {(pair.name, pair.data): pair for pair in read_tables()[table['table']]}
        for pair in table['pairs']:
            configs = {row.name: row for row in known[pair['pair'], pair['data']].rows}
            for name, row in pair['rows'].items():
                if row['scores'] and name in configs:
                    yield Measured(
                        table=file.stem,
                        pair=pair['title'],
                        row=name,
                        config=configs[name].config.resolve(),
                        scores=list(row['scores'].values()),
                        mean=row['mean'],
                        std=row['std'],
                        gain=row['over'].get(STUDENT),
                    )


def _numbers(folder: Path) -> str:
    """Return the table of what was measured of a method, with links to the pages."""
    lines = []
    for row in measured():
        if not row.config.is_relative_to(folder):
            continue
        top1 = f'{row.mean:.2f}' + ('' if row.std is None else f' ± {row.std:.2f}')
        gain = ''
        if row.gain is not None:
            gain = f'{row.gain["mean"]:+.2f} ± {row.gain["half"]:.2f}'
        config = row.config.relative_to(folder).as_posix()
        lines.append(
            f'| [{row.row}](../../configs/{folder.name}/{config}) '
            f'| {top1} | {gain} | {len(row.scores)} '
            f'| [{row.pair}](../results/tables/{row.table}.md) |'
        )
    if not lines:
        return 'Nothing of it has been measured here yet.\n'
    head = '| row | top-1 % | over the student alone | seeds | pair |\n'
    return '\n'.join([head + '| --- | --- | --- | --- | --- |', *lines]) + '\n'


def bases(folder: Path) -> list[Path]:
    """Return the method bases that a method's configs are made of."""
    names: set[str] = set()
    for leaf in folder.glob('*.py'):
        text = leaf.read_text(encoding='utf-8')
        names |= set(re.findall(r'_base_/methods/(\w+\.py)', text))
    return [CONFIGS / '_base_' / 'methods' / name for name in sorted(names)]


def classes(folder: Path) -> list[type]:
    """Return the losses, connectors and balancers of a method."""
    names: dict[str, None] = {}
    for base in bases(folder):
        distiller = Config.fromfile(base).distiller
        parts = [*distiller.distill_losses.values()]
        parts += [*distiller.get('connectors', {}).values()]
        parts += [distiller.balancer] if 'balancer' in distiller else []
        names |= dict.fromkeys(part.type for part in parts)
    return [MODELS.get(name) for name in names]


def method_page(folder: Path) -> str:
    """Return the page of a method in Markdown.

    Args:
        folder (Path): Its folder in ``configs``.
    """
    readme = folder / 'README.md'
    text = moved(
        readme.read_text(encoding='utf-8'),
        readme.relative_to(ROOT),
        f'methods/{folder.name}',
    )
    parts = [text, '## Measured here\n', _numbers(folder), '## Parameters\n']
    for kind in classes(folder):
        parts.append(
            f'```{{eval-rst}}\n.. autoclass:: {kind.__module__}.{kind.__qualname__}\n'
            '   :no-index:\n   :no-members:\n'
        )
        if kind.__module__.startswith('cakd_mm'):
            parts.append(f'The API says more of :class:`.{kind.__name__}`.\n')
        parts.append('```\n')
    parts.append('## What it is fed with\n')
    for base in bases(folder):
        path = f'../../{base.relative_to(ROOT).as_posix()}'
        parts.append(f'[{base.name}]({path}):\n')
        parts.append(f'```{{literalinclude}} {path}\n```\n')
    return '\n'.join(parts)


def table_page(file: Path, page: str) -> str:
    """Return the page of a table that ``tools/reproduce.py`` wrote."""
    table = json.loads(file.with_suffix('.json').read_text(encoding='utf-8'))
    seeds = max(
        row['planned'] for pair in table['pairs'] for row in pair['rows'].values()
    )
    text = moved(file.read_text(encoding='utf-8'), file.relative_to(ROOT), page)
    title = f'# Table {table["table"]}, {seeds} seeds\n'
    return re.sub(r'\A# .*\n', lambda _: title, text)


def pages() -> dict[str, str]:
    """Return all generated pages: name in the site, and text in Markdown."""
    found = {}
    methods = []
    for source, page in sources().items():
        file = ROOT / source
        if page.startswith('methods/'):
            found[page] = method_page(file.parent)
            methods.append(file.parent)
        elif page.startswith('results/'):
            found[page] = table_page(file, page)
        else:
            found[page] = moved(file.read_text(encoding='utf-8'), source, page)
    found['methods/index'] = _methods_index(methods)
    return found


def _methods_index(folders: list[Path]) -> str:
    lines = ['# Methods\n', '| method | paper |', '| --- | --- |']
    for folder in folders:
        metafile = yaml.safe_load((folder / 'metafile.yml').read_text(encoding='utf-8'))
        [about] = metafile['Collections']
        paper = f'[{about["Paper"]["Title"]}]({about["Paper"]["URL"]})'
        lines.append(f'| [{about["Name"]}]({folder.name}.md) | {paper} |')
    lines += ['\n```{toctree}\n:hidden:']
    lines += [folder.name for folder in folders] + ['```\n']
    return '\n'.join(lines)


def page_of(path: Path) -> str | None:
    """Return the name of the page that shows a file of the repository, or None."""
    return sources().get(path)


def _write(app: Sphinx) -> None:
    texts = pages()
    for folder in MADE_FOLDERS:
        for path in (Path(app.srcdir) / folder).glob('*.md'):
            if f'{folder}/{path.stem}' not in texts:
                path.unlink()  # of a method or a table that has gone
    for page, text in texts.items():
        path = Path(app.srcdir) / f'{page}.md'
        path.parent.mkdir(parents=True, exist_ok=True)
        # An unchanged page keeps its time, so that it is not read again.
        if not path.is_file() or path.read_text(encoding='utf-8') != text:
            path.write_text(text, encoding='utf-8')


def setup(app: Sphinx) -> ExtensionMetadata:
    """Write the pages before Sphinx looks for its sources."""
    app.connect('builder-inited', _write)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
