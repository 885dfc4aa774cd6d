"""Fixtures that the tests of ``tests/`` and of ``research/tests/`` share."""

import copy
import functools
import os
import time
from pathlib import Path
from types import SimpleNamespace

import mmengine.config.config
import mmengine.config.utils
import mmengine.dataset.base_dataset
import mmengine.registry.default_scope
import pytest
import torch

# yapf writes its grammar into a cache at its first import, where a process that imports
# it at the same moment would read an empty file. pytest imports this module before it
# starts its workers.
import yapf.yapflib.yapf_api
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

# No test changes a config in them: ours, and those of installed packages.
PACKAGES = Path(mmengine.__file__).resolve().parents[1]
SHIPPED = Path(__file__).resolve().parents[1] / 'configs', PACKAGES


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


@pytest.fixture(autouse=True, scope='session')
def _plain_layout():
    """Write configs as they are: laying out their text takes longer than a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        for place in (yapf.yapflib.yapf_api, mmengine.config.config):
            patch.setattr(
                place, 'FormatCode', lambda text, **_: (text, True), raising=False
            )
        yield


@pytest.fixture(autouse=True, scope='session')
def _seeds_of_the_host_alone():
    """Seed no kind of device that is missing, which tests do thousands of times.

    PyTorch would keep the seed for a device that appears later, and the whole stack
    with it, which takes milliseconds.
    """
    with pytest.MonkeyPatch.context() as patch:
        for kind in (torch.cuda, torch.xpu, torch.mtia):
            if not kind.is_available():
                patch.setattr(kind, 'manual_seed_all', lambda seed: None)
        yield


@pytest.fixture(autouse=True, scope='session')
def _garbage_left():
    """Search for no garbage at each data set, which takes longer than to make it."""
    with pytest.MonkeyPatch.context() as patch:
        no_search = SimpleNamespace(collect=lambda: None)
        patch.setattr(mmengine.dataset.base_dataset, 'gc', no_search)
        yield


@pytest.fixture(autouse=True, scope='session')
def _scopes_without_a_sleep():
    """Sleep at no change of scope: the clock names each, and has gone on by then."""
    clock = SimpleNamespace(time=time.time, sleep=lambda seconds: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.registry.default_scope, 'time', clock)
        yield


@pytest.fixture(autouse=True, scope='session')
def _configs_read_once():
    """Read no shipped config twice: mmengine writes each into three temporary files.

    Also the yaml files in which mmpretrain lists its configs are read once.
    """
    read = functools.cache(Config._file2dict)

    @functools.wraps(Config._file2dict)
    def read_once(filename: str, *args, **kwargs) -> tuple:
        path = os.path.abspath(filename)
        if any(folder in Path(path).parents for folder in SHIPPED):
            return copy.deepcopy(read(path, *args, **kwargs))
        return read.__wrapped__(filename, *args, **kwargs)

    lists = mmengine.config.utils
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, '_file2dict', staticmethod(read_once))
        patch.setattr(lists, 'load', functools.cache(lists.load))
        yield
