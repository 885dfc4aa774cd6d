"""What a page consists of; the template shows each kind of block in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = 'text'


@dataclass(frozen=True)
class Listing:
    """Several sentences, one below the other."""

    lines: Sequence[str]
    kind: ClassVar[str] = 'listing'


@dataclass(frozen=True)
class Heading:
    """What the blocks after it are about."""

    text: str
    kind: ClassVar[str] = 'heading'


@dataclass(frozen=True)
class Table:
    """A table; each row has as many cells as the head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ''
    kind: ClassVar[str] = 'table'


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        title: What it shows.
        traces: Its lines, as Plotly's json has them.
        layout: What it has beside the layout of all plots, likewise.
        note: What a reader has to know of it.
    """

    title: str
    traces: Sequence[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    note: str = ''
    kind: ClassVar[str] = 'plot'


@dataclass(frozen=True)
class Plots:
    """Several small plots, side by side where there is room."""

    plots: Sequence[Plot]
    kind: ClassVar[str] = 'plots'


@dataclass(frozen=True)
class Folded:
    """A long text that is shown when it is asked for."""

    title: str
    text: str
    kind: ClassVar[str] = 'folded'


@dataclass(frozen=True)
class Picture:
    """A picture with its caption.

    Attributes:
        source: The picture itself, as a ``data:`` address.
        lines: What is written below it.
    """

    source: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Pictures, side by side."""

    pictures: Sequence[Picture]
    kind: ClassVar[str] = 'gallery'


Block = Text | Listing | Heading | Table | Plot | Plots | Folded | Gallery


@dataclass(frozen=True)
class Tab:
    """A part of the page that is looked at by itself."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Key:
    """An entry of the legend: a name that lines of all plots belong to."""

    name: str
    colour: str
