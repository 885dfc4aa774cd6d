"""What a handful of seeds can tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy import stats

from .history import mean_curve

CONFIDENCE = 0.95
Curve = Sequence[tuple[int, float]]  # (epoch, top-1)


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and its 95 % t interval.

    Args:
        mean (float): In points.
        half (float, optional): Half the interval's width; None for one pair.
        pairs (int): How many seeds both have.
    """

    mean: float
    half: float | None
    pairs: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return self.half is not None and abs(self.mean) > self.half

    def resolved_among(self, comparisons: int) -> bool:
        """Whether the interval excludes 0 if all of so many have to hold together.

        Each interval then leaves out a ``comparisons``-th of 5 % (Bonferroni).
        """
        if self.half is None:
            return False
        tails = (1 - CONFIDENCE) / 2
        one, all_of_them = (
            stats.t.ppf(1 - tail, self.pairs - 1)
            for tail in (tails, tails / comparisons)
        )
        return abs(self.mean) > self.half * all_of_them / one

    def __str__(self) -> str:
        if self.half is None:
            return f'{self.mean:+.2f} (one seed)'
        return f'{self.mean:+.2f} ± {self.half:.2f}'


def interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and half width of the 95 % t interval of paired differences.

    The half width is None for one difference.
    """
    n = len(differences)
    if n < 2:
        return mean(differences), None
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


def level(curves: Sequence[Curve], last: int = 5) -> float | None:
    """Return by how much the mean accuracy of the last epochs scored differs.

    Args:
        curves (Sequence): (epoch, top-1) of each seed.
        last (int): How many epochs that all have. Defaults to 5.

    Returns:
        float | None: None if there are fewer.
    """
    means = [value for _, value in mean_curve(curves)[-last:]]
    return max(means) - min(means) if len(means) == last else None
