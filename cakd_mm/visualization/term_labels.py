"""What the logged terms of the losses are: the axis of each, and its explanation."""

import re

SHARE = 'share'
FACTOR = 'factor (no unit)'
OTHER = 'value, no weight'
SQUARED = 'squared difference, no weight'
# By axis: the terms' names, and what a legend says of them. In order of the panels.
AXES = {
    'divergence × τ² (nats), no weight': {
        'bcd': 'BCD: between the clusters',
        'scd': 'SCD: within the strong cluster',
        'wcd': 'WCD: within the weak cluster',
        'tckd': 'TCKD: of the label from all other classes',
        'nckd': 'NCKD: among the other classes',
        'kl': 'KL: undivided',
    },
    'cross entropy (nats), no weight': {
        'target': "target: of the label, times the teacher's probability",
        'others': 'others: among the other classes, × τ²',
    },
    'contrastive loss (nats), no weight': {
        'nce_S': "nce_S: of the student's embeddings in the teacher's bank",
        'nce_T': "nce_T: of the teacher's embeddings in the student's bank",
    },
    '1 - correlation, no weight': {
        'pearson': 'pearson: of the class scores',
        'spearman': 'spearman: of their soft ranks',
    },
    SQUARED: {'squared': 'squared: half the mean over the elements'},
    OTHER: {},
    'temperature (logit)': {
        'temperature': 'temperature: learned, mean of the batch',
    },
    "factor of the temperature's gradient": {
        'reversal': 'reversal: λ, reversed below 0',
    },
    SHARE: {
        'strong_mass': "strong_mass: teacher's probability of the strong cluster, at τ",
        'kept_strong': 'kept_strong: predictions kept by the strong channels alone',
        'kept_weak': 'kept_weak: ... by the weak channels alone',
        'kept_random': 'kept_random: ... by as many random channels',
        'gate_mean': 'gate_mean: mean gate of the scoring network',
        'gate_spread': 'gate_spread: deviation of the gates of an image',
        'target_mass': "target_mass: teacher's probability of the label, at τ",
        'difficulty': "difficulty: entropy of the teacher's softmax, in log C",
    },
    FACTOR: {
        'r': "r: teacher's activation, strong / weak cluster",
        'gamma': 'gamma: weight of WCD, beta / r',
        'lambda': "lambda: the balancer's weight of this loss",
        'ratio': 'ratio: value of this loss / of the reference',
        'grad_ratio': 'grad_ratio: gradient of this loss / of the reference',
    },
}
# A list of features has as many terms as features.
LEVEL = re.compile(r'level_([1-9]\d*)')
KNOWN = {
    term: (axis, label) for axis, table in AXES.items() for term, label in table.items()
}
# The same in every panel; what is not here is drawn in matplotlib's order.
COLOURS = {
    label: f'C{place}'
    for table in AXES.values()
    for place, label in enumerate(table.values())
}


def describe_term(term: str) -> tuple[str, str]:
    """Return the title of a term's axis and its label in the legend.

    A term that is not known here, of a loss of one's own, goes by its name.
    """
    level = LEVEL.fullmatch(term)
    if level:
        return SQUARED, f'{term}: of feature {level[1]} of the list'
    return KNOWN.get(term, (OTHER, term))
