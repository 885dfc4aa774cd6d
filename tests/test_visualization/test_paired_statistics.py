import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cakd_mm.visualization.paired_statistics import Difference, interval, level, paired

POINTS = st.lists(st.floats(0, 100), min_size=2, max_size=6)


def test_the_interval_is_that_of_the_paired_t_test():
    ours, control = [70.1, 71.3, 69.2, 70.0], [69.5, 70.2, 69.4, 69.1]
    mean, half = interval([a - b for a, b in zip(ours, control, strict=True)])
    expected = stats.ttest_rel(ours, control).confidence_interval(0.95)
    assert mean - half == pytest.approx(expected.low)
    assert mean + half == pytest.approx(expected.high)
    assert interval([1.5]) == (1.5, None)


def test_rows_are_paired_by_seed():
    found = paired({0: 71.0, 1: 72.0, 3: 99.0}, {1: 70.0, 0: 70.0, 2: 5.0})
    assert (found.mean, found.pairs) == (1.5, 2)
    assert found.half == pytest.approx(0.5 * stats.t.ppf(0.975, 1))
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({}, {}) is None


@given(POINTS, st.floats(-50, 50))
def test_what_all_seeds_share_is_no_noise(values, gain):
    """A gain that every seed has is resolved, however far seeds lie apart."""
    control = dict(enumerate(values))
    found = paired({seed: x + gain for seed, x in control.items()}, control)
    assert found.mean == pytest.approx(gain, abs=1e-9)
    assert found.half == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ('mean', 'half', 'resolved', 'text'),
    [
        (0.5, 0.25, True, '+0.50 ± 0.25'),
        (-0.5, 0.4, True, '-0.50 ± 0.40'),
        (0.5, 0.5, False, '+0.50 ± 0.50'),
        (9.0, None, False, '+9.00 (one seed)'),
    ],
)
def test_resolved_is_what_the_interval_excludes_zero_from(mean, half, resolved, text):
    difference = Difference(mean, half, 3)
    assert difference.resolved is resolved
    assert str(difference) == text


def test_level_is_the_spread_of_the_mean_over_the_last_five_scores():
    first = list(enumerate([10, 60, 61, 62, 60, 60], 1))
    second = list(enumerate([90, 60, 61, 60, 60, 60], 1))
    assert level([first, second]) == 1.0  # means 60, 61, 61, 60, 60
    assert level([first, second], last=6) == 11.0
    # Of the epochs that all have, here 2 to 6.
    first = [(epoch, 60.0) for epoch in range(1, 8)]
    second = [(epoch, 60.0 + (epoch == 2)) for epoch in range(1, 7)]
    assert level([first, second]) == 0.5
    for curves in ([], [[(1, 2.0)]], [[(epoch, 1.0) for epoch in range(4)]]):
        assert level(curves) is None


def test_many_comparisons_need_wider_intervals():
    differences = [0.9, 1.1, 1.3, 0.7, 1.0]
    middle, half = interval(differences)
    found = Difference(middle, half, 5)
    # The p value of a paired t test tells for how many it still holds.
    p = stats.ttest_1samp(differences, 0).pvalue
    most = int(0.05 / p)
    assert found.resolved_among(1) and found.resolved
    assert found.resolved_among(most)
    assert not found.resolved_among(most + 1)
    assert not Difference(1.0, None, 1).resolved_among(1)
