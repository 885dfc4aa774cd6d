"""What a handful of seeds can tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and its 95 % t interval.

    Args:
        mean (float): In points.
        half (float): Half the interval's width; nan for fewer than two pairs.
        pairs (int): How many seeds both have.
    """

    mean: float
    half: float
    pairs: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return abs(self.mean) > self.half  # False for nan

    def __str__(self) -> str:
        if self.pairs < 2:
            return f'{self.mean:+.2f} (one seed)'
        return f'{self.mean:+.2f} ± {self.half:.2f}'


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return mean and half width of the 95 % t interval of paired differences."""
    n = len(differences)
    if n < 2:
        return mean(differences), float('nan')
    factor = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)
    return mean(differences), stdev(differences) / n**0.5 * factor


def paired(
    ours: Mapping[int, float], control: Mapping[int, float]
) -> Difference | None:
    """Compare two rows seed by seed, on the seeds that both have.

    Args:
        ours (Mapping): Top-1 by seed.
        control (Mapping): The same of what is compared with.

    Returns:
        Difference | None: None without a common seed.
    """
    common = sorted(ours.keys() & control.keys())
    if not common:
        return None
    middle, half = interval([ours[i] - control[i] for i in common])
    return Difference(middle, half, len(common))


def level(curves: Sequence[Sequence[tuple[int, float]]], last: int = 5) -> float:
    """Return by how much the mean accuracy of the last epochs scored differs.

    Args:
        curves (Sequence): (epoch, top-1) of each seed, the same epochs in all.
        last (int): How many. Defaults to 5.
    """
    values = [[value for _, value in curve[-last:]] for curve in curves]
    means = [mean(column) for column in zip(*values, strict=True)]
    return max(means) - min(means)
