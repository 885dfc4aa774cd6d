"""Fixtures that the tests of ``tests/`` and of ``research/tests/`` share."""

import mmengine.config.config
import pytest
import torch

# yapf writes its grammar into a cache at its first import, where a process that imports
# it at the same moment would read an empty file. pytest imports this module before it
# starts its workers.
import yapf.yapflib.yapf_api
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer


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
