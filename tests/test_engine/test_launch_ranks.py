"""What a rank says that has waited too long for another one."""

import re
import time
from datetime import timedelta

import pytest
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import all_gather_object
from ranks import two_ranks
from tiny import CONFIGS
from tools_inside import run_tool

from cakd_mm.engine import launch

SAID = r'`env_cfg\.dist_cfg\.timeout` = {}: For so many seconds another rank has not'
GLOO = 'Timed out waiting 7000ms for recv operation to complete'


def settings(timeout, launcher='pytorch'):
    return Config(dict(launcher=launcher, env_cfg=dict(dist_cfg=dict(timeout=timeout))))


def test_a_rank_that_does_not_answer(tmp_path):
    """Its wait ends after the timeout, and the error names the key."""

    def work(rank):
        group = dist.new_group(timeout=timedelta(seconds=1))
        began = time.monotonic()
        if rank == 1:
            while not (tmp_path / 'ended').exists():
                time.sleep(0.05)
            return None
        try:
            with launch.explained_timeouts(settings(1)):
                all_gather_object('here', group)
        except RuntimeError as error:
            (tmp_path / 'ended').touch()
            return str(error), time.monotonic() - began

    said, seconds = two_ranks(work, tmp_path)[0]
    assert re.search(SAID.format(1), said)
    assert 1 <= seconds < 10


@pytest.fixture
def alone(monkeypatch):
    """The variables of the first of two ranks, the other of which never comes."""
    names = dict(RANK='0', WORLD_SIZE='2', LOCAL_RANK='0')
    names.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='0')
    for name, value in names.items():
        monkeypatch.setenv(name, value)


def test_a_rank_that_does_not_come(alone):
    with pytest.raises(dist.DistError, match=SAID.format(0.5)) as caught:
        launch.join_ranks(settings(0.5))
    assert isinstance(caught.value.__cause__, dist.DistError)
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ('launcher', 'text'), [('none', GLOO), ('pytorch', 'DataLoader timed out')]
)
def test_other_errors_stay(launcher, text):
    with (
        pytest.raises(RuntimeError) as caught,
        launch.explained_timeouts(settings(7, launcher)),
    ):
        raise RuntimeError(text)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ('tool', 'builder'),
    [('train.py', 'build_runner'), ('test.py', 'build_test_runner')],
)
def test_both_tools_say_it(monkeypatch, tmp_path, alone, tool, builder):
    def build(*_):
        raise RuntimeError(GLOO)

    monkeypatch.setattr(launch, builder, build)
    monkeypatch.setattr(dist, 'init_process_group', lambda *_, **__: None)
    words = [CONFIGS / 'vanilla' / 'resnet20_digits.py']
    words += ['none.pth'] if tool == 'test.py' else []
    words += ['--work-dir', tmp_path, '--launcher', 'pytorch']
    with pytest.raises(RuntimeError, match=SAID.format(600)):
        run_tool(monkeypatch, tool, *words)
