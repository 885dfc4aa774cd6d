"""Fixtures that every test folder shares."""

import gc
import importlib
import uuid
from pathlib import Path

import pytest
import torch
from fresh_globals import (  # noqa: F401
    _configs_read_once,
    _fresh_globals,
    _garbage_left,
    _plain_layout,
    _scopes_without_a_sleep,
    _seeds_of_the_host_alone,
)
from mmengine.config import Config
from mmengine.runner import Runner

import cakd_mm  # noqa: F401  (first: makes mmrazor importable)

ROOT = Path(__file__).resolve().parents[1]
# Files with tests of 15 to 75 seconds.
LONG = ('test_in_a_process.py', 'test_own_data.py', 'test_dist.py')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish() -> None:
    """Keep half a million objects of the libraries out of each search for garbage."""
    gc.freeze()


@pytest.fixture
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder of the benchmarks, which can be imported, with few images of noise."""
    folder = ROOT / 'benchmarks'
    monkeypatch.syspath_prepend(str(folder))
    images = importlib.import_module('steps').RandomImages
    monkeypatch.setattr(images, 'COUNTS', (64, 64))
    return folder


@pytest.fixture
def traced_only(monkeypatch):
    """Let ``torch.compile`` trace, and run what it has traced without a compiler.

    The compiler takes 5 to 40 seconds for each net. What it makes is compared with the
    plain nets in ``test_teacher_runtime.py`` and ``test_student_runtime_hook.py``.
    """
    compile = torch.compile

    def trace(function, options=None, **others):
        return compile(function, backend='eager', **others)

    monkeypatch.setattr(torch, 'compile', trace)


@pytest.fixture(scope='session')
def trained(tmp_path_factory) -> Path:
    """The work dir of a run of two epochs of three steps with a scoring network."""
    from tiny_runs import train  # It needs mmrazor, which cakd_mm makes importable.

    return train(tmp_path_factory.mktemp('trained'))


@pytest.fixture
def make_runner(tmp_path):
    """Build a Runner in the temporary folder, under a name of its own."""

    def make(cfg: Config, work_dir: str = 'run') -> Runner:
        cfg.setdefault('launcher', 'none')
        cfg.work_dir = str(tmp_path / work_dir)
        cfg.experiment_name = uuid.uuid4().hex
        return Runner.from_cfg(cfg)

    return make
