"""What ends with whom."""

import os
import signal
import subprocess
import sys
import time

import pytest
from mmengine.config import Config
from processes import is_alive
from tiny import CONFIGS

from cakd_mm.engine.hooks import EndWithLauncherHook
from cakd_mm.engine.launch import join_ranks
from cakd_mm.utils import machine

# A launcher that starts a rank, which names its pid and sleeps.
LAUNCHER = """
import multiprocessing, os, runpy, time
machine = runpy.run_path({path!r})
def rank():
    machine['end_with_torchrun']()
    print(os.getpid(), flush=True)
    time.sleep(60)
process = multiprocessing.get_context('fork').Process(target=rank)
process.start()
process.join()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='a signal that Linux has')
@pytest.mark.parametrize('is_torchrun', [True, False])
def test_a_rank_ends_with_its_torchrun_and_with_no_other_launcher(is_torchrun):
    """Not with a shell, say, from which ranks were started by hand."""
    variables = {k: v for k, v in os.environ.items() if k != 'TORCHELASTIC_RUN_ID'}
    if is_torchrun:
        variables['TORCHELASTIC_RUN_ID'] = 'none'
    launcher = subprocess.Popen(
        [sys.executable, '-c', LAUNCHER.format(path=machine.__file__)],
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    rank = int(launcher.stdout.readline())
    assert is_alive(rank)
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    deadline = time.monotonic() + (10 if is_torchrun else 0.5)
    while is_alive(rank) and time.monotonic() < deadline:
        time.sleep(0.02)
    survives = is_alive(rank)
    if survives:
        os.kill(rank, signal.SIGKILL)
    assert survives != is_torchrun


def test_a_rank_whose_parent_has_ended_before_ends(monkeypatch):
    ended = []
    monkeypatch.setattr(machine.os, '_exit', ended.append)
    monkeypatch.setattr(machine, 'LIBC', None)
    machine.end_with(os.getppid() + 1)  # No system but Linux has it.
    monkeypatch.setattr(machine, 'LIBC', LibraryProbe())
    machine.end_with(os.getppid())
    assert ended == []
    machine.end_with(os.getppid() + 1)
    assert ended == [1]


class LibraryProbe:
    def prctl(self, option, number):
        assert (option, number) == (1, signal.SIGKILL)


def test_any_runner_and_our_tools_ask_for_it(monkeypatch):
    """The tools do so before a Runner is built, which may take minutes."""
    asked = []
    for module in ('hooks.end_with_launcher_hook', 'launch.ranks'):
        name = f'cakd_mm.engine.{module}.end_with_torchrun'
        monkeypatch.setattr(name, lambda module=module: asked.append(module))
    EndWithLauncherHook().before_run(None)
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(timeout=-1))))
    with pytest.raises(ValueError, match='timeout'):
        join_ranks(cfg)
    assert asked == ['hooks.end_with_launcher_hook', 'launch.ranks']
    cfg = Config.fromfile(CONFIGS / '_base_' / 'default_runtime.py')
    assert cfg.default_hooks.launcher.type == 'EndWithLauncherHook'


@pytest.mark.parametrize(
    ('limit', 'free'),
    [
        (None, 8 << 20),  # not in a container
        ('max', 8 << 20),
        (10 << 20, (10 - 7 + 4) << 20),
        (1 << 20, 0),  # it may use more than its limit for a moment
        (99 << 20, 8 << 20),
    ],
)
def test_free_memory_is_that_of_the_machine_or_the_container(
    limit, free, tmp_path, monkeypatch
):
    (tmp_path / 'meminfo').write_text(
        'MemTotal:       99999 kB\nMemAvailable:   8192 kB\nHugePages_Total:   0\n'
    )
    monkeypatch.setattr(machine, 'MEMINFO', str(tmp_path / 'meminfo'))
    monkeypatch.setattr(machine, 'OF_CONTAINER', str(tmp_path / 'memory'))
    if limit is not None:
        (tmp_path / 'memory.max').write_text(f'{limit}\n')
        (tmp_path / 'memory.current').write_text(f'{7 << 20}\n')
        (tmp_path / 'memory.stat').write_text(f'anon 5\ninactive_file {4 << 20}\n')
    assert machine.free_memory() == free
    monkeypatch.setattr(machine, 'MEMINFO', str(tmp_path / 'no such file'))
    assert machine.free_memory() is None
