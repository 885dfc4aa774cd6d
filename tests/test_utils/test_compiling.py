"""Compiled where that works, eager with one warning where it does not."""

import copy
import logging
import os
import pickle

import pytest
import torch
from mmrazor.registry import MODELS

from cakd_mm.utils import compiling
from cakd_mm.utils.compiling import compiled, why_not_compile

DOUBLED = torch.full((3,), 2.0)


def double(x):
    return x * 2


def refuse(x):
    raise ValueError('x is refused')


@pytest.fixture
def warnings(monkeypatch):
    texts = []

    def print_log(text, logger, level=logging.INFO):
        if level == logging.WARNING:
            texts.append(text)

    monkeypatch.setattr(compiling, 'print_log', print_log)
    monkeypatch.setattr(compiling, '_LOGGED', set())
    return texts


@pytest.fixture(autouse=True)
def _fresh_compilations():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def broken(graph, inputs):
    raise RuntimeError('no such back end')


def test_it_compiles_once_and_says_nothing(warnings):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    run = compiled(double, 'speed', backend=backend)
    for _ in range(3):
        assert torch.equal(run(torch.ones(3)), DOUBLED)
    assert len(graphs) == 1
    assert not warnings


def test_what_is_about_to_take_long_is_announced_once(monkeypatch):
    texts = []
    monkeypatch.setattr(compiling, 'print_log', lambda text, *_: texts.append(text))
    monkeypatch.setattr(compiling, '_LOGGED', set())
    for key in ('speed', 'speed', 'other'):
        run = compiled(double, key, backend=lambda graph, inputs: graph)
        assert not texts or key == 'other' or len(texts) == 1
        run(torch.ones(3))
    assert texts == [
        'speed: compiling, which takes up to a minute',
        'other: compiling, which takes up to a minute',
    ]


def test_the_sizes_of_one_copy_leave_another_alone(warnings):
    kinds = []

    def backend(graph, inputs):
        kinds.append([type(x) for x in inputs])
        return graph

    for size in (3, 5, 7):
        run = compiled(double, 'speed', backend=backend)
        assert torch.equal(run(torch.ones(size)), torch.full((size,), 2.0))
    assert kinds == 3 * [[torch.Tensor]]  # a variable size would be an input too
    assert not warnings


@pytest.mark.parametrize(
    ('version', 'relied_on'),
    [('2.3.1+cu121', False), ('2.4.0', True)],
)
def test_old_versions_are_not_relied_on(version, relied_on, warnings, monkeypatch):
    graphs = []
    monkeypatch.setattr(compiling.torch, '__version__', version)
    run = compiled(double, 'speed', backend=lambda g, _: graphs.append(g) or g)
    assert torch.equal(run(torch.ones(3)), DOUBLED)
    assert bool(graphs) == relied_on
    assert len(warnings) == (not relied_on)
    for text in warnings:
        assert text.startswith('`speed` = True: Compiling failed')
        assert 'from PyTorch 2.4 on' in text


def test_a_failure_is_told_once_by_its_key(warnings):
    calls = []

    def eager(x):
        calls.append(x)
        return x * 2

    run = compiled(eager, 'speed', backend=broken)
    for _ in range(3):
        assert torch.equal(run(torch.ones(3)), DOUBLED)
    # One more, of a fake tensor, is the tracing of the compilation that failed.
    assert len([x for x in calls if type(x) is torch.Tensor]) == 3
    assert torch.equal(compiled(eager, 'speed', backend=broken)(torch.ones(3)), DOUBLED)
    assert len(warnings) == 1
    assert '`speed` = True' in warnings[0]
    assert 'no such back end' in warnings[0]
    assert 'speed=False' in warnings[0]


def test_a_copy_tries_again(warnings):
    run = compiled(double, 'speed', backend=broken)
    run(torch.ones(3))
    assert run._run is double
    assert copy.copy(run)._run is None


def test_an_error_of_the_caller_is_the_callers(warnings):
    for backend in ('eager', broken):
        with pytest.raises(ValueError, match='x is refused'):
            compiled(refuse, 'speed', backend=backend)(torch.ones(3))
    multiply = compiled(lambda x, y: x @ y, 'speed', backend='eager')
    with pytest.raises(RuntimeError, match='mat1|size|shape'):
        multiply(torch.ones(2, 3), torch.ones(2, 3))
    assert multiply(torch.ones(2, 3), torch.ones(3, 2)).shape == (2, 2)
    assert not warnings


def test_an_unknown_system(warnings, monkeypatch):
    def compile(*_, **__):
        raise RuntimeError('Dynamo is not supported here: torch.compile')

    monkeypatch.setattr(torch, 'compile', compile)
    assert torch.equal(compiled(double, 'speed')(torch.ones(3)), DOUBLED)
    assert len(warnings) == 1


def test_without_a_c_compiler(tmp_path, monkeypatch, warnings):
    """The loss warns once, by its key, and gives the eager value."""
    from torch._inductor import config

    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path / 'cache'))
    loss = MODELS.build(dict(type='CAKDLogitLoss', compile=True))
    twin = MODELS.build(dict(type='CAKDLogitLoss'))
    student, teacher = torch.randn(2, 6, 5)
    labels = torch.arange(6) % 5
    # monkeypatch would leave the setting without a value for the tests after this one.
    with config.patch({'cpp.cxx': (str(tmp_path / 'none'),)}):
        for _ in range(2):
            value = loss(student.clone().requires_grad_(), teacher, labels)
            value.backward()
            assert torch.equal(value, twin(student, teacher, labels))
    assert config.cpp.cxx
    (text,) = warnings
    assert text.startswith('`compile` = True: Compiling failed')


def test_it_is_pickled_without_what_was_compiled():
    run = compiled(double, 'speed', backend='eager')
    run(torch.ones(3))
    assert torch.equal(pickle.loads(pickle.dumps(run))(torch.ones(3)), DOUBLED)


def test_only_the_largest_size_is_compiled(warnings):
    """A run that is resumed at the end of an epoch begins with its smaller batch."""
    sizes, ran = [], []

    def backend(graph, inputs):
        sizes.append([int(x) for x in inputs[0].shape])
        return lambda *args: ran.append(len(args[0])) or graph(*args)

    run = compiled(double, 'speed', largest_alone=True, backend=backend)
    for rows in (3, 8, 3, 8, 0):
        assert torch.equal(run(torch.ones(rows, 2)), torch.full((rows, 2), 2.0))
    assert sizes == [[3, 2], [8, 2]]
    assert ran == [3, 8, 8]
    copy.deepcopy(run)(torch.ones(2, 2))
    assert ran == [3, 8, 8, 2]
    assert warnings == []


@pytest.mark.parametrize('mode', [0o700, 0o777, 0o770])
def test_code_that_others_can_write_is_not_run(warnings, monkeypatch, tmp_path, mode):
    """By default the folder lies in /tmp under a name that can be guessed."""
    graphs = []
    folder = tmp_path / 'of everybody'
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(folder))
    run = compiled(double, 'speed', backend=lambda g, _: graphs.append(g) or g)
    assert torch.equal(run(torch.ones(3)), DOUBLED)
    assert bool(graphs) == (mode == 0o700)
    assert len(warnings) == (mode != 0o700)
    for text in warnings:
        assert text.startswith(f'`TORCHINDUCTOR_CACHE_DIR` = {str(folder)!r}: Other')
        assert f"Type chmod go-w '{folder}'." in text
        assert 'compiler' not in text  # nothing has to be installed


def test_the_folder_of_compiled_code_is_made_for_this_user(monkeypatch, tmp_path):
    monkeypatch.delenv('TORCHINDUCTOR_CACHE_DIR', raising=False)
    monkeypatch.setattr(
        'torch._inductor.runtime.runtime_utils.default_cache_dir',
        lambda: str(tmp_path / 'torchinductor_me'),
    )
    before = os.umask(0)
    try:
        compiled(double, 'speed', backend=lambda graph, _: graph)(torch.ones(3))
    finally:
        os.umask(before)
    assert (tmp_path / 'torchinductor_me').stat().st_mode & 0o777 == 0o700


NO_COMPILER = 'No C++ compiler here.\n\nSet TORCHDYNAMO_VERBOSE=1 for more'


@pytest.mark.parametrize('refusal', [None, RuntimeError(NO_COMPILER)])
def test_whether_compiling_works_is_known_by_trying(refusal, monkeypatch):
    tried = []

    def compile_(function, **options):
        assert options == {}
        if refusal is not None:
            raise refusal
        return lambda x: tried.append(function(x))

    monkeypatch.setattr(torch, 'compile', compile_)
    reason = why_not_compile(torch.device('cpu'))
    assert reason == (None if refusal is None else 'No C++ compiler here.')
    assert [x.tolist() for x in tried] == ([[2.0, 2.0]] if refusal is None else [])
    monkeypatch.setattr('cakd_mm.utils.compiling.OLDEST', '99.0')
    assert 'from PyTorch 99.0 on' in why_not_compile(torch.device('cpu'))
