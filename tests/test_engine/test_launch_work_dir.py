"""One process to a work dir, and room for what it writes."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from mmengine.config import Config
from ranks import two_ranks
from torch import nn

from cakd_mm.engine.launch import check_room, own_work_dir, work_dir
from cakd_mm.utils.agreement import OtherRankError, exchange


def config(folder: Path, launcher: str = 'none') -> Config:
    return Config(dict(work_dir=str(folder), launcher=launcher))


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    monkeypatch.setattr(work_dir, 'PATIENCE', 5.0)


@pytest.fixture
def holder(tmp_path):
    """A process that has locked the work dir."""
    context = multiprocessing.get_context('fork')
    locked = context.Event()

    def hold():
        with own_work_dir(config(tmp_path)):
            locked.set()
            time.sleep(600)

    process = context.Process(target=hold)
    process.start()
    assert locked.wait(60), 'the holder of the lock died'
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_told_which_is_the_first(holder, tmp_path):
    host = os.uname().nodename
    text = rf'`work_dir` = .*Process {holder.pid} on {host} is training there'
    with pytest.raises(RuntimeError, match=text), own_work_dir(config(tmp_path)):
        pass
    holder.kill()
    holder.join()
    with own_work_dir(config(tmp_path)):
        assert json.loads((tmp_path / '.training.json').read_text())['pid'] == (
            os.getpid()
        )


def test_workers_of_a_killed_training_are_waited_for(tmp_path, monkeypatch):
    """They have its lock until they see that it is dead."""
    lock = FileLock(tmp_path / '.training.lock', thread_local=False)
    lock.acquire()
    with subprocess.Popen([sys.executable, '-c', '']) as process:
        process.wait()
    dead = dict(pid=process.pid, host=os.uname().nodename)
    (tmp_path / '.training.json').write_text(json.dumps(dead))
    release = threading.Timer(0.5, lock.release)
    release.start()
    with own_work_dir(config(tmp_path)):
        assert release.finished.is_set()
    lock.acquire()
    (tmp_path / '.training.json').write_text(json.dumps(dead))
    monkeypatch.setattr(work_dir, 'PATIENCE', 0.1)
    text = f'Process {process.pid} on .* is dead, and its workers are there'
    with pytest.raises(RuntimeError, match=text), own_work_dir(config(tmp_path)):
        pass
    lock.release()


def test_an_owner_on_another_host_is_not_waited_for(tmp_path):
    with FileLock(tmp_path / '.training.lock'):
        other = dict(pid=2**22, host='elsewhere')
        (tmp_path / '.training.json').write_text(json.dumps(other))
        began = time.monotonic()
        with (
            pytest.raises(RuntimeError, match='Process 4194304 on elsewhere is'),
            own_work_dir(config(tmp_path)),
        ):
            pass
        assert time.monotonic() - began < work_dir.PATIENCE


def test_the_first_rank_locks_for_all_and_each_has_to_write(tmp_path):
    shared, file = tmp_path / 'run', tmp_path / 'file'
    file.write_text('')

    def work(rank: int) -> list[str]:
        found = [str(os.getpid())]
        with own_work_dir(config(shared, 'pytorch')):
            found.append((shared / '.training.json').read_text())
            exchange(None)  # Only now may the lock end.
        try:
            with own_work_dir(config((shared, file)[rank] / 'run', 'pytorch')):
                pass
        except (OSError, OtherRankError) as error:
            found.append(str(error))
        exchange(None)
        if rank == 0:  # It has let go of what it had locked.
            FileLock(shared / 'run/.training.lock').acquire(timeout=0)
        return found

    (pid, own, other), (_, same, refused) = two_ranks(work, tmp_path)
    assert own == same == json.dumps(dict(pid=int(pid), host=os.uname().nodename))
    assert 'Nothing can be written there (Not a directory)' in refused
    assert refused in other


def test_an_owner_that_says_nothing_is_another_process(holder, tmp_path):
    for text in ('', '[]', '{"pid": 1}', 'null'):
        (tmp_path / '.training.json').write_text(text)
        match = 'Another process is training'
        with (
            pytest.raises(RuntimeError, match=match),
            own_work_dir(config(tmp_path)),
        ):
            pass


def test_the_lock_ends_with_an_error_in_the_run(tmp_path):
    with pytest.raises(KeyError), own_work_dir(config(tmp_path)):
        raise KeyError
    with own_work_dir(config(tmp_path)):
        pass


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.EROFS, 'Read-only file system'),
        OSError(errno.ENOSPC, 'No space left on device'),
        PermissionError(errno.EACCES, 'Permission denied'),
    ],
)
def test_names_a_work_dir_that_cannot_be_written(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Path, 'write_text', fail)
    text = rf'`work_dir` = .*Nothing can be written there \({error.strerror}'
    with pytest.raises(OSError, match=text), own_work_dir(config(tmp_path)):
        pass


@pytest.mark.parametrize(
    'error', [OSError(errno.ENOLCK, 'No locks'), NotImplementedError]
)
def test_a_folder_without_locks_is_used_all_the_same(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(work_dir.FileLock, 'acquire', fail)
    with own_work_dir(config(tmp_path)):
        assert (tmp_path / '.training.json').is_file()


def test_names_a_work_dir_below_a_file(tmp_path):
    (tmp_path / 'file').write_text('')
    with (
        pytest.raises(OSError, match='`work_dir` = .*Not a directory'),
        own_work_dir(config(tmp_path / 'file' / 'run')),
    ):
        pass


def test_asks_for_room_for_two_checkpoints(tmp_path, monkeypatch):
    usage = namedtuple('usage', 'free')
    model = nn.Linear(1023, 1024)  # 4 MiB
    runner = SimpleNamespace(model=model, work_dir=str(tmp_path))
    monkeypatch.setattr(work_dir, 'disk_usage', lambda _: usage(8 << 20))
    check_room(runner)
    monkeypatch.setattr(work_dir, 'disk_usage', lambda _: usage((8 << 20) - 1))
    text = '`work_dir` = .*7 MiB are free, but two checkpoints take at least 8 MiB'
    with pytest.raises(OSError, match=text):
        check_room(runner)
