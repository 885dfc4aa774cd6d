"""The order of the channels."""

import numpy as np

from cakd_mm.visualization.clusters import channel_order


def test_similar_channels_are_neighbours():
    rng = np.random.default_rng(0)
    kinds = np.tile([0, 1, 2], 5)
    shares = np.eye(3)[:, kinds] * 0.8 + 0.05 * rng.random((3, 15))
    order = channel_order(shares)
    assert sorted(order) == list(range(15))
    assert (np.diff(kinds[order]) != 0).sum() == 2
