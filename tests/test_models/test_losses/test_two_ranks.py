"""Losses that learn or remember do it on two ranks as on one with the whole batch."""

import numpy as np
import pytest
import torch
from mmrazor.registry import MODELS
from ranks import two_ranks
from torch import nn
from torch.testing import assert_close

# Images of each step, the last of them fewer, one in two places, an odd number.
PLACES = [[0, 11, 22, 33], [5, 1, 5, 7], [38, 39, 2, 3], [9, 0, 6]]
EVERY, FIRST = slice(None), slice(0, None, 2)


def crd(part, batch_size=0):
    """Gradients and state of CRD after steps on a part of every batch."""
    torch.manual_seed(1)
    sizes = dict(channels_S=6, channels_T=9, feat_dim=5, negatives=12)
    loss = MODELS.build(dict(type='CRDBankLoss', **sizes))
    loss.set_dataset(np.arange(40) % 4, seed=4, batch_size=batch_size)
    loss.double()
    grads = []
    for step, places in enumerate(PLACES):
        draw = torch.Generator().manual_seed(step)
        batch = [
            torch.randn(len(places), width, generator=draw, dtype=torch.float64)
            for width in (6, 9)
        ]
        ours, theirs, indices = (x[part] for x in (*batch, torch.tensor(places)))
        loss.zero_grad()
        loss(ours.requires_grad_(), theirs, indices).backward()
        grads.append([len(indices) * p.grad.clone() for p in loss.parameters()])
    return grads, loss.state_dict()


def ctkd(part, wrap=lambda loss: loss):
    """Parameters of both forms of CTKD after steps of SGD on a part of a batch."""
    draw = torch.Generator().manual_seed(0)
    pair = [z[part] for z in 8.0 * torch.randn(2, 8, 5, generator=draw)]
    found = []
    for options in ({}, dict(instance_wise=True, num_classes=5)):
        torch.manual_seed(0)
        loss = MODELS.build(dict(type='CTKDLoss', **options))
        loss.set_epoch(5)
        model = wrap(loss)
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.05, weight_decay=5e-4)
        for _ in range(3):
            optimizer.zero_grad()
            model(*pair).backward()
            optimizer.step()
        found.append([parameter.detach() for parameter in loss.parameters()])
    return found


SHARES = dict(bcd=0.2, scd=0.5, wcd=0.3)
CLUSTERS = (
    dict(type='CAKDLogitLoss', strong_classes=2, gradient_shares=SHARES),
    dict(type='CAKDLogitLoss', strong_mass=0.7, scorer=dict(type='RandomScorer')),
    *(
        dict(
            type='CAKDFeatureLoss',
            scorer=dict(
                type='ClassScorer', channels=5, num_classes=4, scorer=dict(type=name)
            ),
        )
        for name in ('ActivationScorer', 'RandomScorer')
    ),
)


def clusters(part):
    """Values, gradients and state of CAKD after steps on a part of every batch."""
    found = []
    for cfg in CLUSTERS:
        torch.manual_seed(1)
        loss = MODELS.build(cfg).double()
        steps = []
        for step in range(3):
            draw = torch.Generator().manual_seed(step)
            pair = 3 * torch.rand(2, 6, 5, generator=draw).double()
            student, teacher = pair[:, part]
            labels = torch.randint(4, (6,), generator=draw)[part]
            result = loss(student.requires_grad_(), teacher, labels)
            (grad,) = torch.autograd.grad(len(student) * result, student)
            steps.append((result.detach(), grad))
        found.append((steps, loss.state_dict()))
    return found


@pytest.fixture(scope='module')
def of_ranks(tmp_path_factory):
    """What each of two ranks has, of CRD, of CTKD and of CAKD's clusters."""

    def work(rank):
        part = slice(rank, None, 2)
        learned = ctkd(part, nn.parallel.DistributedDataParallel)
        return crd(part, batch_size=2), learned, clusters(part)

    return two_ranks(work, tmp_path_factory.mktemp('ranks'))


def test_the_banks_and_gradients_of_crd(of_ranks):
    (grads_0, state_0), (grads_1, state_1) = (found[0] for found in of_ranks)
    grads, state = crd(EVERY)
    for name, value in state.items():
        assert torch.equal(state_0[name], state_1[name]), name
        if not name.startswith('embed'):
            assert_close(state_0[name], value)
    for whole, first, second in zip(grads, grads_0, grads_1, strict=True):
        for expected, *parts in zip(whole, first, second, strict=True):
            assert_close(sum(parts), expected)
    # One half of every batch would leave another bank and another Z.
    _, alone = crd(FIRST)
    assert not torch.allclose(alone['bank_S'], state['bank_S'])
    assert not torch.allclose(alone['log_z'], state['log_z'], rtol=1e-4)


def test_the_temperatures_of_ctkd(of_ranks):
    first, second = (found[1] for found in of_ranks)
    for a, b, whole, half in zip(first, second, ctkd(EVERY), ctkd(FIRST), strict=True):
        for one, other, expected in zip(a, b, whole, strict=True):
            assert torch.equal(one, other)
            assert_close(one, expected, rtol=1e-5, atol=1e-7)
        # Half of the batch would give something else.
        assert not torch.allclose(half[-1], whole[-1], rtol=1e-4, atol=0)


@pytest.mark.parametrize('place', range(len(CLUSTERS)), ids=lambda i: str(CLUSTERS[i]))
def test_the_clusters_and_shares_of_cakd(of_ranks, place):
    (steps_0, state_0), (steps_1, state_1) = (found[2][place] for found in of_ranks)
    steps, state = clusters(EVERY)[place]
    for name, value in state.items():
        assert torch.equal(state_0[name], state_1[name]), name
        assert_close(state_0[name], value)
    for (result, grad), one, other in zip(steps, steps_0, steps_1, strict=True):
        assert_close((one[0] + other[0]) / 2, result)
        assert_close(torch.stack((one[1], other[1]), 1).flatten(0, 1), grad)
