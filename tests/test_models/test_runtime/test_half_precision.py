"""How long a net takes for an image, by a clock of the test."""

import pytest
import torch
from known_nets import NETS

from cakd_mm.models.runtime import half_precision, seconds_per_image

BOTH = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize('trains', [False, True])
@pytest.mark.parametrize(
    # Seconds of one image in float32; images that are then run at once; rounds.
    ('each', 'most', 'count', 'rounds'),
    [(0.01, 64, 20, 4), (0.01, 6, 6, 4), (0.2, 64, 2, 1)],
)
def test_seconds_of_an_image(trains, each, most, count, rounds, monkeypatch):
    calls = []

    def seconds(run):
        result = run()
        assert result.dtype == torch.float32
        assert torch.isfinite(result).all()
        [batch] = run.args
        kind = run.func.dtype
        calls.append((len(batch), kind))
        return len(batch) * each / (1 if kind == torch.float32 else 2)

    monkeypatch.setattr(half_precision, '_seconds', seconds)
    net = NETS['resnet8']().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state, image = torch.get_rng_state(), torch.ones(3, 16, 16)
    found = seconds_per_image(net, image, most, trains, *BOTH)
    assert found == pytest.approx([each, each / 2])
    assert calls == [(2, torch.float32), *[(count, kind) for kind in BOTH] * rounds]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert not net.training
    assert all(weight.grad is None for weight in net.parameters())


def test_what_is_timed_computes_in_its_type():
    """And goes backward if it trains."""
    net, images = NETS['resnet8']().eval(), torch.ones(2, 3, 16, 16)
    plain, half = (half_precision._FrozenNet(net, kind)(images) for kind in BOTH)
    assert torch.allclose(plain, net(images, mode='tensor'), atol=1e-5)
    assert 1e-5 < (half - plain).abs().max() / plain.abs().max() < 0.1
    seen = []
    for kind in BOTH:
        trained = half_precision._TrainedNet(net, kind)
        trained.net.head.register_forward_hook(lambda *x: seen.append(x[-1].dtype))
        trained(images)
        assert trained.net.training
        assert all(weight.grad is not None for weight in trained.net.parameters())
    assert seen == [*BOTH]
