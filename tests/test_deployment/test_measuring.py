"""Differences of scores, and times of calls."""

import math
from types import SimpleNamespace

import pytest
import torch

from cakd_mm.deployment import latency
from cakd_mm.deployment.parity import largest_difference

IMAGES = [torch.zeros(1), torch.ones(1)]


@pytest.mark.parametrize(
    ('found', 'expected', 'difference'),
    [
        ([[1.0, -8.0], [2.0, 4.0]], [[1.0, -8.0], [2.0, 4.0]], 0.0),
        # A share of the largest score of its batch.
        ([[1.0, -8.0], [2.0, 4.5]], [[2.0, -8.0], [2.0, 4.0]], 0.125),
        ([[1.0, -8.0], [2.0, 4.5]], [[2.0, -8.0], [2.0, 1.0]], 1.75),
        ([[math.nan, -8.0], [2.0, 4.0]], [[1.0, -8.0], [2.0, 4.0]], math.nan),
        ([[1.0, -8.0], [2.0, math.nan]], [[2.0, -8.0], [2.0, 4.0]], math.nan),
        ([[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], math.inf),
        ([[1.0, -8.0, 0.0], [2.0, 4.0, 0.0]], [[1.0, -8.0], [2.0, 4.0]], math.inf),
    ],
)
def test_difference(found, expected, difference):
    def row(of):
        return lambda images: torch.tensor([of[int(images)]])

    result = largest_difference(row(found), row(expected), IMAGES)
    assert result == pytest.approx(difference, nan_ok=True)


def test_medians_of_calls_in_turn(monkeypatch):
    """Each call moves the clock; one is slow once, which a median does not show."""
    clock, order = [0.0], []
    durations = dict(
        a=iter([9.0, 9.0, *[0.001] * 99]), b=iter([0.1] * 3 + [5.0] + [0.1] * 99)
    )

    def call(name):
        order.append(name)
        clock[0] += next(durations[name])

    fake = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr(latency, 'time', fake)
    calls = dict(a=lambda: call('a'), b=lambda: call('b'))
    times, rounds = latency.medians(calls)
    assert times == pytest.approx(dict(a=1.0, b=100.0))
    assert rounds == latency.LEAST
    assert order == ['a', 'b'] * (latency.LEAST + 2)
