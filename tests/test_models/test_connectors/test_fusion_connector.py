"""FusionConnector against stored numbers, alone and before HCLLoss."""

import re

import goldens
import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.connectors.fusion_connector import FusionLevel

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
PARTS = {'conv1': 'reduce', 'conv2': 'expand', 'att_conv.0': 'attention'}


def ours(name):
    """Translate a stored parameter's name within a level."""
    for theirs, own in PARTS.items():
        name = name.replace(theirs, own)
    return name


def tolerance(entry, dtype):
    return entry['tolerance'][str(dtype).removeprefix('torch.')]


def close(found, expected, share):
    expected = expected.double()
    atol = share * expected.abs().max().item()
    assert_close(found.double(), expected, rtol=0, atol=atol)


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('ReviewKD-ABF', group='features'))
def test_goldens_of_one_level(entry, dtype):
    golden, hp = goldens.load(entry), entry['hparams']
    widths = (hp['in_channel'], hp['out_channel'], hp['mid_channel'])
    level = FusionLevel(*widths, fuses=hp['fuse']).to(dtype)
    level.load_state_dict(
        {ours(k[2:]): v for k, v in golden.items() if k.startswith('w.')}
    )
    level.train(hp['bn_mode'] == 'train')
    x = golden['x'].to(dtype).requires_grad_()
    y = golden['y'].to(dtype).requires_grad_() if hp['fuse'] else None
    out, residual = level(x, y, (hp['out_shape'],) * 2)
    cotangents = [golden[f'cot_{k}'].to(dtype) for k in ('out', 'residual')]
    torch.autograd.backward((out, residual), cotangents)
    share = tolerance(entry, dtype)
    close(out.detach(), golden['out'], max(share['loss_rtol'], 1e-6))
    close(residual.detach(), golden['residual'], max(share['loss_rtol'], 1e-6))
    close(x.grad, golden['grad_x'], share['grad_rtol_of_max'])
    if y is not None:
        close(y.grad, golden['grad_y'], share['grad_rtol_of_max'])
    state = level.state_dict()
    for name in [name for name in golden if name.startswith('after.')]:
        close(state[ours(name[6:])], golden[name], 1e-6)


def chain(golden, hp, dtype):
    connector = MODELS.build(
        dict(
            type='FusionConnector',
            in_channels=hp['in_channels'],
            out_channels=hp['out_channels'],
            out_sizes=hp['out_shapes'][::-1],
            mid_channels=hp['mid_channel'],
        )
    ).to(dtype)
    state = connector.state_dict()
    for start in ('before.', 'w.'):
        for name in [name for name in golden if name.startswith(start)]:
            # The original numbers its levels from the deepest.
            number, rest = name.removeprefix(start).split('.', 1)
            own = f'levels.{len(hp["in_channels"]) - 1 - int(number)}.{ours(rest)}'
            assert state[own].shape == golden[name].shape
            state[own] = golden[name].to(dtype)
    connector.load_state_dict(state)
    return connector.train()


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('ReviewKD', group='features'))
def test_goldens_of_the_whole_method(entry, dtype):
    golden, hp = goldens.load(entry), entry['hparams']
    connector = chain(golden, hp, dtype)
    names = [*(f'feat_{i}' for i in (1, 2, 3)), 'pooled']
    student = [golden[f'student_{n}'].to(dtype).requires_grad_() for n in names]
    teacher = [golden[f'teacher_{n}'].to(dtype).requires_grad_() for n in names]
    factor = hp['reviewkd_weight'] * min(hp['epoch'] / hp['warmup_epochs'], 1)
    value = MODELS.build(dict(type='HCLLoss', loss_weight=factor))(
        connector(student), teacher
    )
    value.backward()
    share = tolerance(entry, dtype)
    expected = dict(rtol=share['loss_rtol'], atol=0)
    assert_close(value.detach().double(), golden['loss'], **expected)
    assert_close(
        value.detach().double() / factor, golden['loss_hcl_unweighted'], **expected
    )
    for name, s, t in zip(names, student, teacher, strict=True):
        # Of two samples of one pixel BN leaves next to no gradient.
        slack = 5 if name == 'pooled' and dtype == torch.float32 else 1
        expected = golden[f'grad_student_{name}']
        close(s.grad, expected, slack * share['grad_rtol_of_max'])
        assert t.grad is None
    deepest = len(names) - 1
    grads = {name: p.grad for name, p in connector.named_parameters()}
    state, checked = connector.state_dict(), 0
    for name, stored in golden.items():
        match = re.match(r'(gw|after)\.(\d)\.(.*)', name)
        if match:
            kind, number, rest = match.groups()
            own = f'levels.{deepest - int(number)}.{ours(rest)}'
            found = grads[own] if kind == 'gw' else state[own]
            # Of a sum over positions that nearly cancels more is lost.
            close(found, stored, max(5 * share['grad_rtol_of_max'], 1e-6))
            checked += 1
    assert checked > 30


def build(**options):
    torch.manual_seed(0)
    settings = dict(in_channels=[2, 3, 4], out_channels=[5, 6, 7]) | options
    return MODELS.build(dict(type='FusionConnector', **settings)).double()


def features(samples=3, vector=True):
    draw = torch.Generator().manual_seed(1)
    shapes = [(samples, 2, 8, 8), (samples, 3, 4, 4), (samples, 4, 1, 1)]
    found = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    if vector:
        found[-1] = found[-1].flatten(1)
    return found


def sizes(maps):
    return [tuple(x.shape) for x in maps]


def test_shapes_in_the_order_of_the_features():
    expected = [(3, 5, 8, 8), (3, 6, 4, 4), (3, 7, 1, 1)]
    assert sizes(build()(features())) == expected
    connector = build(out_sizes=[16, None, (2, 3)])
    assert sizes(connector(features())) == [(3, 5, 16, 16), (3, 6, 4, 4), (3, 7, 2, 3)]


def test_sizes_that_are_not_written_are_those_of_the_teachers_maps():
    teacher = [torch.zeros(3, 9, *size) for size in ((4, 4), (8, 2), (1, 1))]
    written = build(out_sizes=[(4, 4), (8, 2), (1, 1)])(features())
    for found, expected in zip(build()(features(), teacher), written, strict=True):
        assert torch.equal(found, expected)
    kept = build(out_sizes=[16, None, None])(features(), teacher)
    assert sizes(kept) == [(3, 5, 16, 16), (3, 6, 8, 2), (3, 7, 1, 1)]
    own = build()(features())
    # A vector has no size, and unequal lists are refused by the loss.
    vectors = [*teacher[:2], torch.zeros(3, 9)]
    assert sizes(build()(features(), vectors))[2] == (3, 7, 1, 1)
    for other in (teacher[:2], teacher[0], [x.flatten(1) for x in teacher]):
        assert torch.equal(build()(features(), other)[0], own[0])
    same = [torch.zeros(3, 9, *x.shape[2:]) for x in own]
    assert torch.equal(build()(features(), same)[0], own[0])
    keeps = build()
    keeps.keeps_size = True
    assert torch.equal(keeps(features(), teacher)[0], own[0])


def test_a_vector_is_a_map_of_one_pixel():
    assert_close(build()(features()), build()(features(vector=False)))


@pytest.mark.parametrize(
    ('options', 'mid'),
    [({}, 4), (dict(mid_channels=9), 9), (dict(in_channels=[2, 3, 1024]), 512)],
)
def test_channels_of_the_fused_maps(options, mid):
    levels = build(**options).levels
    for level in levels:
        assert level.reduce[0].out_channels == mid
    assert levels[-1].attention is None
    assert levels[0].attention.bias.shape == (2,)
    assert levels[0].reduce[0].bias is None


def test_weights_begin_as_in_the_original_and_stay_through_init():
    """Uniform up to sqrt(3 / fan in)."""
    connector = build(in_channels=[60, 60, 60])
    connector.init_weights()
    for level in connector.levels:
        for conv in (level.reduce[0], level.expand[0]):
            bound = (3 / conv.weight[0].numel()) ** 0.5
            assert 0.97 * bound < conv.weight.abs().max() <= bound


def test_deeper_features_reach_the_shallower_maps_and_not_the_other_way():
    inputs = [x.requires_grad_() for x in features()]
    outputs = build().eval()(inputs)
    for out_index, output in enumerate(outputs):
        grads = torch.autograd.grad(
            output.square().sum(), inputs, retain_graph=True, allow_unused=True
        )
        reached = [grad is not None and bool(grad.abs().max() > 0) for grad in grads]
        assert reached == [index >= out_index for index in range(3)]


def test_in_eval_samples_are_independent():
    connector = build().eval()
    order = torch.tensor([2, 0, 1])
    turned = connector([x[order] for x in features()])
    assert_close(turned, [x[order] for x in connector(features())])


def test_all_its_weights_are_trained():
    connector = build()
    sum(x.square().sum() + x.sum() for x in connector(features(4))).backward()
    assert len([*connector.parameters()]) == 3 * 6 + 2 * 2
    for name, parameter in connector.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(in_channels=[]), r'`FusionConnector\.in_channels` = \[\]'),
        (dict(in_channels=64), r'`FusionConnector\.in_channels` = 64'),
        (dict(in_channels=[2, 3, 0]), r'in_channels.*positive integers'),
        (dict(in_channels=[2, 3, 4.0]), 'in_channels'),
        (dict(in_channels=[2, 3, True]), 'in_channels'),
        (dict(out_channels=[5, 6]), r'out_channels` = \[5, 6\].*3 levels'),
        (dict(out_sizes=[8, 4]), r'out_sizes` = \[8, 4\].*3 levels'),
        (dict(out_sizes=8), 'out_sizes` = 8'),
        (dict(mid_channels=0), r'mid_channels` = \[0\]'),
    ],
    ids=str,
)
def test_wrong_settings(options, match):
    with pytest.raises(ValueError, match=match):
        build(**options)


@pytest.mark.parametrize(
    ('change', 'error', 'match'),
    [
        (lambda f: f[0], TypeError, r'got Tensor: feed it a list.*recorder=\['),
        (lambda f: [f[0], f[1], (f[2],)], TypeError, r"\['Tensor', 'tuple'\].*data_"),
        (lambda f: f[:2], ValueError, r'in_channels` = \(2, 3, 4\).*3 levels.*got 2'),
        (lambda f: f[::-1], ValueError, r'feature 0 of shape \(3, 4\)'),
        (lambda f: [f[0], f[1], f[1]], ValueError, r'in_channels\[2\]` = 4.*Write 3'),
    ],
)
def test_wrong_features(change, error, match):
    with pytest.raises(error, match=match):
        build()(change(features()))
