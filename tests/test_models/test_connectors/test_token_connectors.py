"""Connectors from and to tokens, against loops over positions and weights."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from mmrazor.registry import MODELS
from torch.testing import assert_close

KINDS = (
    'MapToTokensConnector',
    'TokensConnector',
    'TokensToMapConnector',
    'TokensToVectorConnector',
)
WIDTHS = dict(in_channels=3, out_channels=5)
SIDES = st.integers(1, 5)


def build(kind, **options):
    torch.manual_seed(0)
    return MODELS.build(dict(type=kind, **options)).double()


def numbers(*shape):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def project(connector, vector):
    """All output channels of vectors (N, C), by loops."""
    layer = connector.linear
    rows = zip(layer.weight, layer.bias, strict=True)
    return torch.stack([(row * vector).sum(-1) + bias for row, bias in rows], -1)


# Tokens to map


@pytest.mark.parametrize('extra', ['drop', 'add'])
@pytest.mark.parametrize('grid', [None, (1, 4)])
def test_tokens_to_map(extra, grid):
    options = dict(extra_tokens=2, extra=extra, grid=grid)
    connector, tokens = (
        build('TokensToMapConnector', **options, **WIDTHS),
        numbers(2, 6, 3),
    )
    found = connector(tokens)
    height, width = grid or (2, 2)
    assert found.shape == (2, 5, height, width)
    added = (tokens[:, 0] + tokens[:, 1]) / 2 if extra == 'add' else 0
    for place in range(4):
        row, column = divmod(place, width)
        expected = project(connector, tokens[:, 2 + place] + added)
        assert_close(found[:, :, row, column], expected)


def test_the_map_comes_to_the_size_of_the_teachers_or_to_its_own():
    tokens = numbers(2, 17, 3)
    connector = build('TokensToMapConnector', extra_tokens=1, **WIDTHS)
    whole = connector(tokens)
    found = connector(tokens, torch.zeros(2, 9, 2, 1))
    for row in (0, 1):
        block = whole[:, :, 2 * row : 2 * row + 2]
        assert_close(found[:, :, row, 0], block.mean((2, 3)))
    same = connector(tokens, torch.zeros(2, 9, 4, 4))
    assert torch.equal(same, whole)
    # What is no map has no size.
    for teacher in (None, torch.zeros(2, 9), torch.zeros(2, 7, 9)):
        assert torch.equal(connector(tokens, teacher), whole)
    sized = build('TokensToMapConnector', extra_tokens=1, size=(2, 1), **WIDTHS)
    assert_close(sized(tokens, torch.zeros(2, 9, 8, 8)), found)
    connector.keeps_size = True
    assert torch.equal(connector(tokens, torch.zeros(2, 9, 2, 1)), whole)


# To tokens


@pytest.mark.parametrize('extra', ['keep', 'drop'])
def test_a_map_becomes_tokens(extra):
    options = dict(teacher_extra_tokens=2, extra=extra, **WIDTHS)
    connector, feature = build('MapToTokensConnector', **options), numbers(2, 3, 4, 4)
    front = 2 if extra == 'keep' else 0
    found = connector(feature, torch.zeros(2, front + 4, 7))
    assert found.shape == (2, front + 4, 5)
    for place in range(front):
        assert_close(found[:, place], project(connector, feature.mean((2, 3))))
    for place in range(4):
        row, column = divmod(place, 2)
        block = feature[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        expected = project(connector, block.mean((2, 3)))
        assert_close(found[:, front + place], expected)


def test_a_grid_that_is_no_square_is_written():
    options = dict(teacher_extra_tokens=1, teacher_grid=(2, 1))
    connector, feature = build('MapToTokensConnector', **options), numbers(2, 3, 4, 4)
    found = connector(feature, torch.zeros(2, 3, 3))
    assert_close(found[:, 1], feature[:, :, :2].mean((2, 3)))
    assert_close(found[:, 2], feature[:, :, 2:].mean((2, 3)))
    assert_close(connector(feature), found)
    with pytest.raises(ValueError, match=r'teacher_grid` = \(2, 1\).*4 do not fill'):
        connector(feature, torch.zeros(2, 5, 3))


@pytest.mark.parametrize(('ours', 'theirs'), [(1, 1), (1, 3), (3, 1), (0, 2), (2, 0)])
def test_tokens_become_those_of_another_grid(ours, theirs):
    counts = dict(extra_tokens=ours, teacher_extra_tokens=theirs)
    connector = build('TokensConnector', **counts, **WIDTHS)
    tokens = numbers(2, ours + 16, 3)
    found = connector(tokens, torch.zeros(2, theirs + 4, 7))
    assert found.shape == (2, theirs + 4, 5)
    mean = tokens[:, ours:].mean(1)
    for place in range(theirs):
        own = tokens[:, place] if place < ours else mean
        assert_close(found[:, place], project(connector, own))
    for place in range(4):
        row, column = divmod(place, 2)
        first = ours + 8 * row + 2 * column
        block = [tokens[:, first + step] for step in (0, 1, 4, 5)]
        expected = project(connector, sum(block) / 4)
        assert_close(found[:, theirs + place], expected)


def test_tokens_of_the_teachers_grid_only_pass_the_layer():
    counts = dict(extra_tokens=1, teacher_extra_tokens=1)
    connector, tokens = build('TokensConnector', **counts, **WIDTHS), numbers(2, 10, 3)
    found = connector(tokens, torch.zeros(2, 10, 5))
    assert torch.equal(found, connector.linear(tokens))


# To a vector


def test_tokens_to_vector():
    tokens = numbers(2, 6, 3)
    expected = dict(
        mean=sum(tokens[:, i] for i in (2, 3, 4, 5)) / 4,
        all=sum(tokens[:, i] for i in range(6)) / 6,
    )
    expected['class'] = tokens[:, 0]
    for pool, vector in expected.items():
        options = dict(extra_tokens=2, pool=pool)
        connector = build('TokensToVectorConnector', **options, **WIDTHS)
        assert_close(connector(tokens), project(connector, vector))
        bare = build('TokensToVectorConnector', **options)
        assert_close(bare(tokens), vector)


# Without a layer, and there and back


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), SIDES, SIDES, SIDES, SIDES)
def test_there_and_back(extra, height, width, other_height, other_width):
    """Without a layer positions stay, and a constant does whatever the size."""
    count = dict(extra_tokens=extra, grid=(height, width))
    to_map = build('TokensToMapConnector', **count)
    patches_of = build('TokensConnector', extra='drop', **count)
    to_tokens = build('MapToTokensConnector', extra='drop')
    tokens = numbers(2, extra + height * width, 3)
    assert torch.equal(to_tokens(to_map(tokens)), patches_of(tokens))
    assert torch.equal(patches_of(tokens), tokens[:, extra:])
    keeps = build('TokensConnector', extra_tokens=extra, grid=(height, width))
    assert torch.equal(keeps(tokens), tokens)
    teacher = torch.zeros(2, 3, other_height, other_width)
    ones = to_map(torch.ones_like(tokens), teacher)
    assert_close(ones, torch.ones_like(teacher, dtype=torch.float64))
    assert [*to_map.parameters(), *keeps.parameters(), *to_tokens.parameters()] == []


@pytest.mark.parametrize('kind', KINDS)
def test_widths_and_numbers_of_tokens_are_asked_for(kind):
    expected = dict(in_channels='student', out_channels='teacher')
    if kind != 'MapToTokensConnector':
        expected['extra_tokens'] = 'student_extra_tokens'
    if kind in ('MapToTokensConnector', 'TokensConnector'):
        expected['teacher_extra_tokens'] = 'teacher_extra_tokens'
    assert MODELS.get(kind).wanted_widths({}) == expected
    expected.pop('teacher_extra_tokens', None)
    assert MODELS.get(kind).wanted_widths(dict(extra='drop')) == expected


@pytest.mark.parametrize('kind', KINDS)
def test_gradcheck(kind):
    to_tokens = kind in ('MapToTokensConnector', 'TokensConnector')
    options = dict(teacher_extra_tokens=2) if to_tokens else {}
    if kind != 'MapToTokensConnector':
        options['extra_tokens'] = 1
    connector = build(kind, **options, **WIDTHS)
    feature = numbers(1, 5, 3) if options.get('extra_tokens') else numbers(1, 3, 2, 2)
    teacher = torch.zeros(1, 11, 5) if to_tokens else torch.zeros(1, 5, 3, 1)
    inputs = feature.requires_grad_(), *connector.parameters()
    assert len(inputs) == 3
    assert torch.autograd.gradcheck(lambda x, *_: connector(x, teacher), inputs)


# Mistakes


@pytest.mark.parametrize(
    ('kind', 'options', 'match'),
    [
        (KINDS[2], dict(extra='use'), r"extra` = 'use': It is one of 'drop', 'add'"),
        (
            KINDS[2],
            dict(extra='add', extra_tokens=0),
            r"`.*extra` = 'add': extra_tokens",
        ),
        (KINDS[1], dict(extra='add'), r"extra` = 'add': It is one of 'keep', 'drop'"),
        (KINDS[3], dict(pool='max'), r"pool` = 'max': It is one of 'mean', 'class'"),
        (KINDS[2], dict(extra_tokens=-1), r'extra_tokens` = -1: It is the number'),
        (KINDS[0], dict(teacher_extra_tokens=1.0), 'teacher_extra_tokens` = 1.0'),
        (KINDS[2], dict(grid=(0, 4)), r'TokensToMapConnector\.grid` = \(0, 4\)'),
        (KINDS[2], dict(size=0), r'TokensToMapConnector\.size` = 0'),
        (KINDS[1], dict(teacher_grid='a'), r"TokensConnector\.teacher_grid` = 'a'"),
        (KINDS[3], dict(out_channels=4), r'in_channels` = None: A layer needs'),
        (KINDS[3], dict(in_channels=4, out_channels=0), r'out_channels` = 0: A layer'),
    ],
)
def test_wrong_settings(kind, options, match):
    with pytest.raises(ValueError, match=match):
        build(kind, **options)


TOKENS = torch.zeros(2, 5, 3).double()
MAPS = torch.zeros(2, 3, 2, 2).double()


@pytest.mark.parametrize(
    ('kind', 'options', 'inputs', 'match'),
    [
        (KINDS[2], {}, [TOKENS], r'extra_tokens` = None: How many.*extra_tokens=1 for'),
        (KINDS[2], dict(extra_tokens=0), [TOKENS], r'grid` = None: There are 5 tokens'),
        (
            KINDS[2],
            dict(extra_tokens=1),
            [MAPS],
            r"Tap tokens \(N, L, C\);.* for a map .*'MapConnector'",
        ),
        (
            KINDS[0],
            {},
            [TOKENS],
            r"Tap a map \(N, C, H, W\);.*='TokensConnector'",
        ),
        (KINDS[0], {}, [MAPS, TOKENS], 'teacher_extra_tokens` = None: How many'),
        (KINDS[0], {}, [MAPS, MAPS], r'\(2, 3, 2, 2\): tap tokens.*MapConnector'),
        (
            KINDS[1],
            dict(extra_tokens=1, teacher_extra_tokens=1),
            [TOKENS, MAPS],
            'there as well, or give .* TokensToMapConnector',
        ),
        (
            KINDS[1],
            dict(extra_tokens=1, extra='drop'),
            [TOKENS, TOKENS],
            'other 5 make no square. Leave the class.*TokensConnector',
        ),
        (KINDS[3], dict(extra_tokens=0, pool='class'), [TOKENS], r"pool` = 'class'"),
        (KINDS[3], dict(extra_tokens=5), [TOKENS], r"pool` = 'mean': Of 5 tokens"),
        (KINDS[3], dict(extra_tokens=1, in_channels=4), [TOKENS], 'in_channels=4, but'),
    ],
)
def test_wrong_features(kind, options, inputs, match):
    with pytest.raises(ValueError, match=match):
        build(kind, **options)(*inputs)
