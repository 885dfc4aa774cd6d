"""What is written beside an image."""

import math

import torch

from cakd_mm.visualization.images import strongest_channels, verdict


def test_strongest_channels_come_first():
    scores = torch.tensor([0.1, 5.0, -2.0, 3.0, 3.0])
    assert strongest_channels(scores, 3) == [1, 3, 4]


def test_verdict():
    logits = torch.tensor([0.0, 2.0, 0.0])
    share = 100 * math.exp(2) / (math.exp(2) + 2)
    text = f'teacher: b, {share:.1f} %'
    assert verdict(logits, [1], ['a', 'b', 'c']) == (text, True)
    assert verdict(logits, [0], ['a', 'b', 'c']) == (text, False)
