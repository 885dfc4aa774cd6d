"""Fixtures that every test folder shares."""

import uuid
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

import cakd_mm  # noqa: F401  (first: makes mmrazor importable)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _fresh_globals():
    """Leave no mmengine singleton and no thread setting to the next test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    # mmengine keeps one table for each class, subclasses apart.
    for kind in (DefaultScope, MMLogger, MessageHub, Visualizer):
        for singleton in (kind, *kind.__subclasses__()):
            singleton._instance_dict.clear()
    torch.set_num_threads(threads)


@pytest.fixture
def root() -> Path:
    """The repository's root."""
    return ROOT


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
