"""The axes on which plots draw the terms of losses, scorers and balancers."""

from collections.abc import Mapping
from enum import Enum


class TermAxis(str, Enum):
    """What a logged term measures; terms of one axis share a panel, in this order."""

    DIVERGENCE = 'divergence × τ² (nats), no weight'
    UNSCALED_DIVERGENCE = 'divergence (nats), no weight'
    CROSS_ENTROPY = 'cross entropy (nats), no weight'
    CONTRASTIVE = 'contrastive loss (nats), no weight'
    DISTANCE = '1 - correlation, no weight'
    TRANSPORT = 'cost of transport, no weight'
    SQUARED = 'squared difference, no weight'
    OTHER = 'value, no weight'
    TEMPERATURE = 'temperature (logit)'
    GRADIENT_FACTOR = "factor of the temperature's gradient"
    SHARE = 'share'
    FACTOR = 'factor (no unit)'


# The name of a term gives its axis and its text in the legend.
TermLabels = Mapping[str, tuple[TermAxis, str]]


def of_level(term: str, level: int) -> str:
    """Return the name of a term of one level of a pyramid, counted from 0."""
    return f'{term}_{level}'


def label_of_level(
    entry: tuple[TermAxis, str], term: str, level: int
) -> tuple[TermAxis, str]:
    """Return axis and text in the legend of a term of one level, from those of all."""
    axis, text = entry
    meaning = text.partition(': ')[2] or text
    return axis, f'{of_level(term, level)}: {meaning}, level {level}'


# The terms that both losses of CAKD have.
CLUSTER_TERMS: TermLabels = {
    'bcd': (TermAxis.DIVERGENCE, 'BCD: between the clusters'),
    'scd': (TermAxis.DIVERGENCE, 'SCD: within the strong cluster'),
    'wcd': (TermAxis.DIVERGENCE, 'WCD: within the weak cluster'),
    'strong_mass': (
        TermAxis.SHARE,
        "strong_mass: teacher's probability of the strong cluster, at τ",
    ),
}
