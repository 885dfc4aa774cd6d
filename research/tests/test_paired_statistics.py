import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from research.paired_statistics import Difference, interval, level, paired

POINTS = st.lists(st.floats(0, 100), min_size=2, max_size=6)


def test_the_interval_is_that_of_the_paired_t_test():
    ours, control = [70.1, 71.3, 69.2, 70.0], [69.5, 70.2, 69.4, 69.1]
    differences = [a - b for a, b in zip(ours, control, strict=True)]
    mean, half = interval(differences)
    expected = stats.ttest_rel(ours, control).confidence_interval(0.95)
    assert mean - half == pytest.approx(expected.low)
    assert mean + half == pytest.approx(expected.high)


def test_one_difference_has_no_interval():
    mean, half = interval([1.5])
    assert mean == 1.5
    assert half is None


def test_rows_are_paired_by_seed():
    ours, control = {0: 71.0, 1: 72.0, 3: 99.0}, {1: 70.0, 0: 70.0, 2: 5.0}
    found = paired(ours, control)
    assert (found.mean, found.pairs) == (1.5, 2)
    assert found.half == pytest.approx(0.5 * stats.t.ppf(0.975, 1))


def test_without_a_common_seed_there_is_nothing_to_say():
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({}, {}) is None


@given(POINTS, st.floats(-50, 50))
def test_what_all_seeds_share_is_no_noise(values, gain):
    """A gain that every seed has is resolved, however far seeds lie apart."""
    control = dict(enumerate(values))
    ours = {seed: value + gain for seed, value in control.items()}
    found = paired(ours, control)
    assert found.mean == pytest.approx(gain, abs=1e-9)
    assert found.half == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ('mean', 'half', 'expected'),
    [
        (0.5, 0.4, True),
        (-0.5, 0.4, True),
        (0.5, 0.5, False),
        (0.3, 0.4, False),
        (9.0, None, False),  # one seed
    ],
)
def test_resolved_is_what_the_interval_excludes_zero_from(mean, half, expected):
    assert Difference(mean, half, 3).resolved is expected


def test_a_difference_in_words():
    assert str(Difference(0.5, 0.25, 3)) == '+0.50 ± 0.25'
    assert str(Difference(-0.5, None, 1)) == '-0.50 (one seed)'


def test_level_is_the_spread_of_the_mean_over_the_last_five_scores():
    first = list(enumerate([10, 60, 61, 62, 60, 60], 1))
    second = list(enumerate([90, 60, 61, 60, 60, 60], 1))
    assert level([first, second]) == 1.0  # means 60, 61, 61, 60, 60
    assert level([first, second], last=6) == 11.0


def test_level_is_of_the_epochs_that_all_have():
    first = [(epoch, 60.0) for epoch in range(1, 8)]
    second = [(epoch, 60.0 + (epoch == 2)) for epoch in range(1, 8) if epoch != 7]
    assert level([first, second]) == 0.5  # epochs 2 to 6


@pytest.mark.parametrize(
    'curves', [[], [[(1, 2.0)] * 1], [[(i, 1.0) for i in range(4)]]]
)
def test_level_cannot_be_told_of_fewer_scores(curves):
    assert level(curves) is None
