"""The file: its blocks in the template, with style, scripts and library inside."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ...utils.errors import describe
from .blocks import Key, Plot, Plots, Tab

LONG = 40  # A cell of more characters has several lines.


def render(
    title: str, lead: Sequence[str], tabs: Sequence[Tab], legend: Sequence[Key] = ()
) -> bytes:
    """Return the page, in HTML. All text of blocks stands for itself in it.

    Args:
        title: Its title.
        lead: What stands above the tabs, paragraph by paragraph.
        tabs: Its parts, in order. A browser that runs no scripts shows them all.
        legend: Entries that hide and show lines of all plots. Defaults to none.

    Raises:
        ModuleNotFoundError: Plotly is not installed.
    """
    plots = [
        plot
        for tab in tabs
        for block in tab.blocks
        for plot in (block.plots if isinstance(block, Plots) else (block,))
        if isinstance(plot, Plot)
    ]
    figures = {
        f'plot-{number}': dict(data=list(plot.traces), layout=plot.layout)
        for number, plot in enumerate(plots)
    }
    environment = Environment(
        loader=PackageLoader('cakd_mm.visualization.report', ''),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [plotly(), own('page.js')]
    page = environment.get_template('page.html').render(
        title=title,
        lead=lead,
        tabs=tabs,
        legend=legend,
        ids={id(plot): name for plot, name in zip(plots, figures, strict=True)},
        id=id,
        long=LONG,
        style=Markup(own('page.css')),
        scripts=[Markup(script) for script in scripts],
        hashes=[hash_of(script) for script in scripts],
        figures=as_data(figures),
    )
    # A name of a file may hold what is no character.
    return page.encode('utf-8', 'backslashreplace')


def as_data(value: object) -> Markup:
    """Return json that ends no script element, whatever its strings are."""
    text = json.dumps(value, allow_nan=False, separators=(',', ':'))
    return Markup(text.replace('<', '\\u003c'))


def hash_of(script: str) -> str:
    """Return what allows a browser to run this script, and no other, in a page."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def own(name: str) -> str:
    """Return the text of a file beside this one."""
    return resources.files(__package__).joinpath(name).read_text(encoding='utf-8')


@cache
def plotly() -> str:
    """Return the library that draws.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        problem = 'It draws the plots of a report, and is not installed.'
        remedy = 'Run `pip install plotly`.'
        raise ModuleNotFoundError(
            describe('import', 'plotly', problem, remedy)
        ) from error
    return get_plotlyjs()
