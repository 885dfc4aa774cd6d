"""Errors of parts that name the key of the part."""

import re

import pytest
import torch
from mmengine.registry import Registry
from torch import nn

from cakd_mm.utils.agreement import OtherRankError
from cakd_mm.utils.building import build_part, naming_use, places_of, settings_of

PARTS = Registry('parts of a test')


@PARTS.register_module()
class Inner:
    def __init__(self, size, width=2):
        if size < 1:
            raise ValueError('size must be positive: write size=1.')
        if width < 1:
            raise RuntimeError('It has no room.')
        if width == 7:
            raise OSError('no such file')
        if width == 8:
            raise ValueError(f'`elsewhere.width` = {width}: It is 8. Write 2.')


@PARTS.register_module()
class Outer:
    def __init__(self, inner):
        self.inner = PARTS.build(inner)


def inner(**options):
    return dict(type='Outer', inner=dict(type='Inner', **options))


def test_what_is_right_is_built():
    assert isinstance(build_part(inner(size=1), PARTS, 'a.b').inner, Inner)


@pytest.mark.parametrize(
    ('cfg', 'kind', 'text'),
    [
        (7, TypeError, '`a.b` = 7: It has to be a dict'),
        ({}, TypeError, '`a.b.type` = None: It is missing'),
        (dict(type=None), TypeError, '`a.b.type` = None: It is not the name'),
        (dict(type='Outr'), KeyError, "`a.b.type` = 'Outr': There is no class"),
        (inner(size=0), ValueError, '`a.b.inner.size` = 0: Inner refuses it: size mu'),
        (inner(), TypeError, '`a.b.inner.size` = None: Inner refuses it'),
        (inner(size=1, width=8), ValueError, '`a.b.inner.width` = 8: It is 8. Write 2'),
        (
            dict(type='Outer', inner=dict(typ='Inner')),
            *(TypeError, '`a.b.inner.type` = None: It is missing'),
        ),
        # The class names no argument, so all of them are shown.
        (
            inner(size=1, width=-1),
            *(
                ValueError,
                'It has no room. Correct what is wrong in a.b.inner.size=1, ',
            ),
        ),
    ],
    ids=str,
)
def test_the_key_of_what_is_wrong(cfg, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        build_part(cfg, PARTS, 'a.b')


def test_a_missing_package_is_no_mistake_in_the_part():
    @PARTS.register_module(force=True)
    class Packaged:
        def __init__(self, name):
            raise ImportError(f'Type: pip install {name}')

    with pytest.raises(ValueError, match='pip install timm. Install what is missing'):
        build_part(dict(type='Packaged', name='timm'), PARTS, 'a')


def test_a_missing_file_is_no_mistake_in_the_part():
    with pytest.raises(OSError, match='^no such file$'):
        build_part(inner(size=1, width=7), PARTS, 'a.b')


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('[gloo] Connection closed by peer [127.0.0.1]'),
        torch.distributed.DistBackendError('NCCL error'),
        OtherRankError('Another rank has failed: rank 1: size'),
    ],
    ids=str,
)
def test_another_rank_that_fails_is_no_mistake_in_the_part(error):
    def build(**_):
        raise error

    with pytest.raises(type(error)) as built:
        build_part(dict(type=build, size=1), PARTS, 'a.b')
    with pytest.raises(type(error)) as used:
        use(error, {})
    assert built.value is used.value is error


def use(error, places):
    with naming_use('It', 'a.b', 'x', lambda: places):
        raise error


@pytest.mark.parametrize(
    ('error', 'text'),
    [
        (ValueError('tau is 3'), '`a.b.tau` = 7: It refuses it: tau is 3. Correct it.'),
        (ValueError('tau and n'), 'tau and n. Correct it or a.b.n.'),
        (RuntimeError('bad'), '`a.b` = .x.: .* a.b.tau=7, a.b.n.0.k=1'),
        (ValueError('`model.x` = 7: No.'), '^`model.x` = 7: No.$'),
        (torch.cuda.OutOfMemoryError('tau'), '^tau$'),
    ],
    ids=str,
)
def test_the_name_that_a_text_mentions(error, text):
    places = places_of(dict(tau=7, n=[dict(k=1)]), 'a.b')
    with pytest.raises((ValueError, RuntimeError), match=text):
        use(error, places)


def test_the_settings_of_a_module():
    found = settings_of(nn.Linear(2, 3), 'a')
    assert found['in_features'] == ('a.in_features', 2)
    assert 'device' not in found
