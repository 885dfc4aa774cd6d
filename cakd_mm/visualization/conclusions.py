"""What paired differences allow to conclude, and what not, in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from .paired_statistics import Difference

CHANCE = 0.05  # of an interval to exclude 0 by seeds alone, if it is a 95 % interval
LEVEL = 1.0  # Who moves less in the last epochs, in points of top-1, is level.


@dataclass(frozen=True)
class Comparison:
    """What several rows gained over one.

    Args:
        base (str): What a sentence calls the one.
        found (Mapping): The difference of each other row, by its name.
    """

    base: str
    found: Mapping[str, Difference]


def conclude_from(
    comparisons: Sequence[Comparison], learner: str, moves: float | None
) -> list[str]:
    """Say what differences mean, if anything.

    Args:
        comparisons (Sequence): The differences; those without a row are left out.
        learner (str): What a sentence calls the run whose end is looked at, in
            lower case.
        moves (float, optional): By how much its mean top-1 differs over its last five
            scores, in points; None if it has fewer.
    """
    if moves is None:
        return [
            f'Fewer than five epochs are scored: whether {learner} has levelled '
            'off cannot be told, and no ranking is stated.'
        ]
    learner_first = learner[0].upper() + learner[1:]
    if moves >= LEVEL:
        return [
            f'{learner_first} had not levelled off: its mean differs by '
            f'{moves:.2f} points over its last five scores. Differences here say '
            'who learns faster, and no ranking is stated.'
        ]
    sentences = [
        f'Within this schedule {learner} had levelled off: its mean differs by '
        f'{moves:.2f} points over its last five scores. A longer schedule may still '
        'change the picture.'
    ]
    sentences += [sentence_of(one) for one in comparisons if one.found]
    found = [x for one in comparisons for x in one.found.values()]
    widths = [x.half for x in found if x.half is not None]
    if not widths:
        sentences.append(
            'With one seed there is no interval: no difference here is more than an '
            'observation.'
        )
        return sentences
    sentences.append(
        'Intervals are 95 % t intervals of paired differences; their median half width '
        f'is {median(widths):.2f} points, and much less than that cannot be told here. '
        f'Each of the {len(widths)} comparisons has a chance of {100 * CHANCE:.0f} % '
        'to be called resolved by seeds alone, which makes '
        f'{CHANCE * len(widths):.1f} of them.'
    )
    return sentences


def held_together(comparisons: Sequence[Comparison], count: int) -> str:
    """Say which differences are resolved though there are many of them.

    Args:
        comparisons (Sequence): The differences that were planned.
        count (int): How many there are of them.
    """
    found = [
        f'{name} over {one.base} ({difference})'
        for one in comparisons
        for name, difference in one.found.items()
        if difference.resolved_among(count)
    ]
    return (
        f'{count} of these comparisons were planned. Resolved if all of them have to '
        f'hold together (Bonferroni): {", ".join(found) or "none"}.'
    )


def sentence_of(comparison: Comparison) -> str:
    """Say which rows lie above and below what they are compared with."""
    kinds = ('above', 'below', 'not told apart from it')
    groups: dict[str, list[str]] = {kind: [] for kind in kinds}
    for name, x in comparison.found.items():
        if not x.resolved:
            groups['not told apart from it'].append(f'{name} ({x})')
        else:
            groups['above' if x.mean > 0 else 'below'].append(f'{name} ({x})')
    parts = [f'{how}: {", ".join(rows)}' for how, rows in groups.items() if rows]
    return f'Against {comparison.base}: {"; ".join(parts)}.'
