"""A detector and a segmentor on a GPU: the host's values, and how the losses wait."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from fake_gpu import DEVICE, fake_gpu
from mmengine.config import Config
from tiny import CONFIGS, distillation
from torch.testing import assert_close

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from dense_nets import SEGMENTORS, dense_batch, retinanet

# By method base: the waits of its losses in a step. Only the GPU knows how many pixels
# have a label.
WAITS = dict(kd_scores=0, cakd_pixel=1)


def step_of(method, device, gpu=None):
    """Compute a step; return losses and gradients, and for what the losses waited."""
    segments = method.endswith('_pixel')
    net = SEGMENTORS['PSPNet']() if segments else retinanet()
    net = dict(net, _scope_='mmseg' if segments else 'mmdet')
    cfg = Config.fromfile(CONFIGS / f'_base_/methods/{method}.py').distiller
    model = distillation(cfg, net, deepcopy(net)).to(device)
    for part in model.student.modules():
        if isinstance(part, torch.nn.Dropout2d):
            part.p = 0.0  # whose numbers are those of the device
    images, samples = dense_batch(net)
    compute, waits = model.distiller.compute_distill_losses, []

    def listened():
        with gpu.listening() if gpu else nullcontext() as ledger:
            losses = compute()
        waits.append(ledger.waits if gpu else [])
        return losses

    for _ in range(2):  # of which the first may be looked at more closely
        model.distiller.compute_distill_losses = listened
        model.zero_grad()
        data = images.to(device), [sample.to(device) for sample in samples]
        losses = model(*data, mode='loss')
        own = {k: v for k, v in losses.items() if k.startswith('distill.')}
        sum(own.values()).backward()
    gradients = [x.grad for x in model.student.parameters() if x.grad is not None]
    terms = model.distiller.terms().values()
    found = [x.detach().cpu() for x in (*own.values(), *gradients, *terms)]
    return found, waits[-1]


@pytest.mark.parametrize('method', WAITS)
def test_a_step(method):
    wanted, _ = step_of(method, 'cpu')
    with fake_gpu() as gpu:
        found, waits = step_of(method, DEVICE, gpu)
    assert len(waits) == WAITS[method], waits
    assert len(found) > 20
    assert_close(found, wanted, rtol=3e-5, atol=1e-6)
