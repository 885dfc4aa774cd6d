"""ActivationScorer against loops over every element."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from mmrazor.registry import MODELS

features = hnp.arrays(
    'f8',
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
    elements=st.floats(-9, 9),
)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(features)
def test_the_mean_magnitude(feature):
    scores = MODELS.build(dict(type='ActivationScorer'))(torch.from_numpy(feature))
    assert scores.shape == feature.shape[:2]
    for n in range(feature.shape[0]):
        for c in range(feature.shape[1]):
            values = feature[n, c] if feature.ndim == 3 else [feature[n, c]]
            want = sum(abs(value) for value in values) / len(values)
            assert scores[n, c].item() == pytest.approx(want)


def test_a_negative_activation_is_a_strong_one_too():
    scorer = MODELS.build(dict(type='ActivationScorer'))
    feature = torch.tensor([[-5.0, 1.0, 3.0]])
    assert scorer(feature).argmax() == 0
    # and its sign does not cancel over the positions
    assert scorer(torch.tensor([[[5.0, -5.0], [2.0, 2.0]]])).argmax() == 0


def test_it_needs_nothing_and_says_nothing():
    scorer = MODELS.build(dict(type='ActivationScorer'))
    assert scorer.needs == ()
    assert scorer.elementwise
    assert scorer.auxiliary is None
    assert scorer.terms == {}
    assert scorer.warning({'r': 1.0}) is None
    assert not scorer.state_dict()
