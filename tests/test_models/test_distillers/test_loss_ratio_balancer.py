"""Weights that keep loss values at a ratio, against a loop in plain Python."""

import copy
import math

import pytest
import torch
from torch import nn

from cakd_mm.models.checks import LARGEST_SETTING, LEAST_SETTING
from cakd_mm.models.distillers import LossRatioBalancer
from cakd_mm.utils.compiling import compiled

KEY = r'`model\.distiller\.balancer\.'


def make(names=('loss_a',), **options):
    return LossRatioBalancer(list(names), 'loss_logit', **options)


def tensors(**values):
    return {name: torch.tensor(float(value)) for name, value in values.items()}


def random_steps(count, names, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, len(names), generator=generator, dtype=torch.float64)
    return [dict(zip(names, (0.2 + 3 * row).tolist(), strict=True)) for row in rows]


def by_hand(steps, names, ratio, momentum):
    """Lambda of every loss in every step."""
    means, found = {}, []
    for count, step in enumerate(steps, start=1):
        weight = max(1 / count, momentum)
        for name in (*names, 'loss_logit'):
            before = means.get(name, 0.0)
            means[name] = (1 - weight) * before + weight * step[name]
        share = ratio * means['loss_logit'] / len(names)
        lambdas = {name: share / means[name] for name in names}
        found.append({n: min(max(x, 1e-3), 1e3) for n, x in lambdas.items()})
    return found


@pytest.mark.parametrize(
    ('names', 'ratio', 'momentum'),
    [
        (['loss_a'], 0.25, 0.0),
        (['loss_a', 'loss_b'], 1.0, 1.0),
        (['loss_b', 'loss_a', 'loss_c'], 4.0, 0.3),
    ],
)
def test_lambda_is_that_of_a_plain_loop(names, ratio, momentum):
    steps = random_steps(30, ['loss_a', 'loss_b', 'loss_c', 'loss_logit'])
    balancer = make(names, ratio=ratio, momentum=momentum)
    for step, expected in zip(
        steps, by_hand(steps, names, ratio, momentum), strict=True
    ):
        balanced = balancer(tensors(**step))
        assert balancer.terms.keys() == set(names)
        for name in names:
            weight = expected[name]
            value = weight * step[name]
            terms = balancer.terms[name]
            assert terms.keys() == {'lambda', 'ratio'}
            assert terms['lambda'].item() == pytest.approx(weight, rel=1e-5)
            assert balanced[name].item() == pytest.approx(value, rel=1e-5)
            share = value / step['loss_logit']
            assert terms['ratio'].item() == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize(
    ('scale', 'decay', 'tolerance'),
    [
        pytest.param(1e-2, (10, 10), 0.05, id='small-both-decay'),
        # A mean over about 20 steps is behind a loss that shrinks by 0.5 % a step.
        pytest.param(1.0, (10, 1), 0.15, id='feature-decays-alone'),
    ],
)
def test_drifting_losses_are_held_at_the_ratio(scale, decay, tolerance):
    """Over the last hundred of 500 steps that shrink the losses tenfold."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(500, 2, generator=generator).sub(0.5).mul(0.6).add(1).tolist()
    balancer = make(ratio=2.0)
    ours, theirs, shares = 0.0, 0.0, []
    for step, (first, second) in enumerate(noise):
        feature = scale * first * decay[0] ** (-step / 500)
        logit = second * decay[1] ** (-step / 500)
        balanced = balancer(tensors(loss_a=feature, loss_logit=logit))
        if step >= 400:
            ours += balanced['loss_a'].item()
            theirs += balanced['loss_logit'].item()
            shares.append(balancer.terms['loss_a']['ratio'].item())
    assert ours / theirs == pytest.approx(2.0, rel=tolerance)
    # Single steps are as noisy as the losses, no more.
    assert max(shares) < 2 * 1.3 / 0.7 * 1.25
    assert min(shares) > 2 * 0.7 / 1.3 / 1.25


@pytest.mark.parametrize(
    ('options', 'value', 'expected'),
    [
        ({}, 1e-9, 1e3),
        ({}, 1e9, 1e-3),
        (dict(limits=[0.5, 2.0]), 0.1, 2.0),  # a list, as from a config
        (dict(limits=(0.5, 2.0)), 0.8, 1.25),
    ],
)
def test_lambda_stays_within_the_limits(options, value, expected):
    balancer = make(**options)
    balanced = balancer(tensors(loss_a=value, loss_logit=1.0))
    assert balancer.terms['loss_a']['lambda'].item() == pytest.approx(expected)
    assert balanced['loss_a'].item() == pytest.approx(expected * value)


@pytest.mark.parametrize(
    ('feature', 'logit', 'expected'), [(0.0, 1.0, 1e3), (1.0, 0.0, 1e-3), (0, 0, 1e-3)]
)
def test_losses_of_zero(feature, logit, expected):
    balancer = make()
    balanced = balancer(tensors(loss_a=feature, loss_logit=logit))
    assert balancer.terms['loss_a']['lambda'].item() == pytest.approx(expected)
    assert balanced['loss_a'].item() == pytest.approx(expected * feature)
    assert math.isfinite(balancer.terms['loss_a']['ratio'].item())
    # It recovers from it.
    for _ in range(200):
        balancer(tensors(loss_a=2.0, loss_logit=1.0))
    assert balancer.terms['loss_a']['lambda'].item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize('ratio', [LEAST_SETTING, 1.0, LARGEST_SETTING])
@pytest.mark.parametrize(
    ('feature', 'logit'), [(1e18, 0.0), (0.0, 1e18), (1e18, 1e-45), (1e18, 1e18)]
)
def test_huge_losses_are_weighted_by_finite_numbers(ratio, feature, logit):
    balancer = make(ratio=ratio, limits=(1e-9, 1e9))
    balanced = balancer(tensors(loss_a=feature, loss_logit=logit))
    found = [*balanced.values(), *balancer.terms['loss_a'].values()]
    assert all(math.isfinite(value) for value in found)


def test_lambda_is_a_constant_to_the_gradient():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    balancer = make(ratio=3.0)
    losses = dict(loss_a=x[0] ** 2 * 5, loss_logit=x[1] ** 3)
    balanced = balancer(losses)
    weight = 3 * 8 / 5
    (grad,) = torch.autograd.grad(balanced['loss_a'], x, retain_graph=True)
    # Of 5 x**2 it is 10 x; nothing through the reference.
    assert grad.tolist() == pytest.approx([weight * 10, 0.0])
    (grad,) = torch.autograd.grad(balanced['loss_logit'], x)
    assert grad.tolist() == pytest.approx([0.0, 12.0])
    assert not balancer.means.value.requires_grad
    for term in balancer.terms['loss_a'].values():
        assert not term.requires_grad


def test_the_reference_and_losses_of_others_are_left_alone():
    losses = tensors(loss_a=2.0, loss_logit=1.0, loss_other=7.0)
    before = copy.copy(losses)
    balanced = make()(losses)
    assert list(balanced) == list(losses)
    for name in ('loss_logit', 'loss_other'):
        assert balanced[name] is losses[name]
    assert all(losses[name] is before[name] for name in before)
    assert balanced['loss_a'].item() == pytest.approx(1.0)


def test_eval_weights_by_what_training_has_seen():
    balancer = make(ratio=2.0)
    for value in (1.0, 3.0):
        balancer(tensors(loss_a=value, loss_logit=1.0))
    state = copy.deepcopy(balancer.state_dict())
    balancer.eval()
    balanced = balancer(tensors(loss_a=50.0, loss_logit=9.0))
    assert balanced['loss_a'].item() == pytest.approx(50.0)  # 2 * 1 / mean(1, 3)
    for name, value in balancer.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_the_state_goes_through_a_checkpoint():
    whole, resumed = make(), make()
    whole(tensors(loss_a=2.0, loss_logit=1.0))
    state = whole.state_dict()
    assert state.keys() == {'means.batches', 'means.value'}
    assert state['means.batches'].item() == 1
    resumed.load_state_dict(state)
    step = tensors(loss_a=0.5, loss_logit=3.0)
    assert torch.equal(whole(step)['loss_a'], resumed(step)['loss_a'])


class TestGradRatio:
    """A tensor x that a feature loss sees through a layer and a logit loss plainly."""

    @pytest.fixture
    def graph(self):
        torch.manual_seed(0)
        source = nn.Linear(3, 4)
        layer = nn.Linear(4, 2)
        x = source(torch.randn(5, 3))
        losses = dict(
            loss_a=layer(x).square().mean(),
            loss_b=x.exp().mean(),
            loss_logit=(x**3).sum().abs(),
        )
        return source, layer, x, losses

    def norm(self, loss, x):
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
        return math.sqrt(sum(value**2 for value in grad.flatten().tolist()))

    def test_is_the_quotient_of_two_norms(self, graph):
        """And leaves the backward as it was."""
        source, layer, x, losses = graph
        parameters = [*source.parameters(), *layer.parameters()]
        balancer = make(['loss_a', 'loss_b'], ratio=0.6)
        balanced = balancer(losses)
        total = sum(balanced.values())
        grads = torch.autograd.grad(total, parameters, retain_graph=True)
        balancer.probe(balanced, dict(loss_a=x, loss_b=x))
        assert all(parameter.grad is None for parameter in parameters)
        for name in ('loss_a', 'loss_b'):
            terms = balancer.terms[name]
            own = terms['lambda'].item() * self.norm(losses[name], x)
            expected = own / self.norm(losses['loss_logit'], x)
            assert terms['grad_ratio'].item() == pytest.approx(expected, rel=1e-5)
            assert not terms['grad_ratio'].requires_grad
        sum(balanced.values()).backward()
        for parameter, grad in zip(parameters, grads, strict=True):
            assert torch.equal(parameter.grad, grad)

    def test_of_the_last_step_is_gone_in_the_next(self, graph):
        _, _, x, losses = graph
        balancer = make()
        balancer.probe(balancer(losses), dict(loss_a=x))
        assert 'grad_ratio' in balancer.terms['loss_a']
        balancer(losses)
        assert 'grad_ratio' not in balancer.terms['loss_a']

    @pytest.mark.parametrize('apart', ['tensor', 'loss_a', 'loss_logit'])
    def test_what_cannot_be_measured_is_left_out(self, graph, apart):
        """No gradient at all, or a loss that does not see the tensor."""
        _, _, x, losses = graph
        if apart == 'tensor':
            x = x.detach()
        else:
            losses[apart] = torch.tensor(2.0, requires_grad=True) * 3
        balancer = make()
        balancer.probe(balancer(losses), dict(loss_a=x))
        assert 'grad_ratio' not in balancer.terms['loss_a']


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (
            dict(losses=['loss_a', 'loss_logit']),
            KEY + r"losses` = \['loss_a', 'loss_logit'\].*'loss_logit'",
        ),
        (dict(losses=[]), KEY + r'losses` = \[\]'),
        (dict(ratio=0), 'ratio must be a positive.*got 0'),
        (dict(limits=(0, 1)), KEY + r'limits` = \(0, 1\)'),
        (dict(limits=(2, 1)), KEY + r'limits` = \(2, 1\)'),
        (dict(momentum=1.5), '`momentum` = 1.5'),
    ],
    ids=str,
)
def test_bad_settings_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        LossRatioBalancer(**{'losses': 'loss_a', 'reference': 'loss_logit', **options})


def test_unknown_losses_are_named():
    balancer = make()
    match = KEY + r"reference` = 'loss_logit'.*\['loss_a'\]"
    with pytest.raises(ValueError, match=match):
        balancer.check_names(['loss_a'])
    match = KEY + r"losses\.0` = 'loss_a'.*\['loss_logit', 'loss_x'\]"
    with pytest.raises(ValueError, match=match):
        balancer.check_names(['loss_logit', 'loss_x'])
    balancer.check_names(['loss_logit', 'loss_a', 'loss_b'])


def test_a_weight_at_its_limit_is_reported():
    balancer = make(limits=(0.1, 10.0))
    assert 'limits=(0.1, 10.0)' in balancer.warning({'lambda': 10.0})
    assert balancer.warning({'lambda': 5.0}) is None


@pytest.mark.parametrize('value', [1e9, 1e-9])
def test_the_balancers_own_weight_at_a_default_limit_is_reported(value):
    """Its float32 is a little off the limit that was written."""
    balancer = make()
    balancer({'loss_a': torch.tensor(value), 'loss_logit': torch.tensor(1.0)})
    weight = balancer.terms['loss_a']['lambda'].item()
    assert 'has reached its limit' in balancer.warning({'lambda': weight})


@torch._functorch.config.patch(donated_buffer=True)
def test_the_probe_goes_through_a_compiled_connector():
    """Its gradients were compiled in a step that is not logged."""
    balancer = LossRatioBalancer('a', 'b')
    torch.manual_seed(0)
    parts = nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.Sigmoid()
    connector = nn.Sequential(*parts)
    run = compiled(connector._call_impl, 'connectors', backend='aot_eager')
    feature = torch.randn(2, 4, 8, 8, requires_grad=True)
    run(feature).sum().backward()
    grads = []
    for form in (connector, run):
        feature.grad = None
        losses = dict(a=form(feature).square().mean(), b=feature.square().mean())
        balanced = balancer(losses)
        balancer.probe(balanced, dict(a=feature))
        sum(balanced.values()).backward()
        grads.append((feature.grad, balancer.terms['a']['grad_ratio']))
    torch.testing.assert_close(*grads)
