"""How ranks meet, and what one says that has waited for another one in vain."""

import os
import re
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import all_gather_object
from ranks import run_to_the_end, two_ranks
from tiny import CONFIGS
from tools_inside import run_tool

from cakd_mm.engine import launch
from cakd_mm.utils.agreement import OtherRankError, together

SAID = r'`env_cfg\.dist_cfg\.timeout` = {}: For so many seconds another rank has not'
GLOO = 'Timed out waiting 7000ms for recv operation to complete'
ENDED = '[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:9'


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
            with launch.explained_waits(settings(1)):
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
    ('launcher', 'text'),
    [('none', GLOO), ('none', ENDED), ('pytorch', 'DataLoader timed out after 5 s')],
)
def test_other_errors_stay(launcher, text):
    with (
        pytest.raises(RuntimeError) as caught,
        launch.explained_waits(settings(7, launcher)),
    ):
        raise RuntimeError(text)
    assert str(caught.value) == text


@pytest.mark.parametrize('kind', [RuntimeError, dist.DistNetworkError])
@pytest.mark.parametrize('text', [ENDED, 'Gloo connectFullMesh failed with'])
def test_a_rank_that_has_ended_is_not_slow(kind, text):
    with pytest.raises(kind) as caught, launch.explained_waits(settings(7)):
        raise kind(text)
    assert str(caught.value) == (
        f'Another rank has ended, see its console and the `.log` of its node ({text}).'
    )


def test_what_another_rank_has_told_is_not_explained_anew():
    told = pytest.raises(OtherRankError, match='^Timed out')
    with told, launch.explained_waits(settings(7)):
        raise OtherRankError(GLOO)


def test_who_has_waited_in_vain_does_not_wait_again(monkeypatch):
    """Neither to tell the others, nor to join them."""
    for name in ('cakd_mm.utils.agreement._gather', 'join_ranks'):
        place = name if '.' in name else f'cakd_mm.engine.launch.ranks.{name}'
        monkeypatch.setattr(place, lambda *_: 1 / 0)
    own = pytest.raises(RuntimeError, match='^Timed out')
    with own, together(), launch.joined_on_error('pytorch'):
        raise RuntimeError(GLOO)


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_ranks_that_were_started_again_do_not_meet_dead_ones(monkeypatch, device):
    """Of an attempt the second rank comes late, where the first finds old keys."""
    monkeypatch.setattr('cakd_mm.engine.launch.ranks.get_device', lambda: device)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda _: None)
    store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    names = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port))
    for name, value in dict(names, TORCHELASTIC_USE_AGENT_STORE='True').items():
        monkeypatch.setenv(name, value)

    def run(rank):
        torch.set_num_threads(1)
        os.environ['RANK'] = os.environ['LOCAL_RANK'] = str(rank)
        time.sleep(rank)
        cfg = settings(60)
        cfg.env_cfg.dist_cfg.backend = 'gloo'
        launch.join_ranks(cfg)
        total = torch.ones(1)
        dist.all_reduce(total)
        dist.barrier()
        os._exit(int(total) - 2)

    for attempt in range(2):
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', str(attempt))
        run_to_the_end(run)


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
