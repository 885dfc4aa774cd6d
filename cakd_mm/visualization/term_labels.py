"""What the logged terms of the losses are: the axis of each, and its explanation."""

from functools import cache

from mmrazor.registry import MODELS

from ..models.term_axis import TermAxis, label_of_level


@cache
def known_terms() -> dict[str, tuple[TermAxis, str]]:
    """Return axis and label of each term that a registered class has."""
    tables = [getattr(kind, 'term_labels', {}) for kind in MODELS.module_dict.values()]
    return {term: entry for table in tables for term, entry in table.items()}


@cache
def colour_of(label: str) -> str | None:
    """Return the colour of a label, which is the same in every panel.

    None stands for matplotlib's own order, in which unknown terms are drawn.
    """
    for axis in TermAxis:
        labels = [text for own, text in known_terms().values() if own is axis]
        if label in labels:
            return f'C{labels.index(label)}'
    return None


def describe_term(term: str) -> tuple[TermAxis, str]:
    """Return a term's axis and its label in the legend.

    ``bcd_2`` is ``bcd`` of a pyramid's level 2, see :class:`LevelLoss`. A term that no
    registered class explains goes by its name.
    """
    known = known_terms()
    whole, _, level = term.rpartition('_')
    if term not in known and whole in known and level.isdigit():
        return label_of_level(known[whole], whole, int(level))
    return known.get(term, (TermAxis.OTHER, term))
