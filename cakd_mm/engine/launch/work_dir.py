"""Keeps a work dir for one process, and sees to it that a run can write there."""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

from filelock import BaseFileLock, FileLock, Timeout
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.runner import Runner

from ...utils.agreement import host, together
from ...utils.errors import describe

KEY = 'work_dir'
ROOM = 2  # checkpoints: a new one is written beside the one before
# Workers that load data outlive a killed training by some seconds, with its lock.
PATIENCE = 15.0  # seconds
POLL = 0.2  # seconds


@contextmanager
def own_work_dir(cfg: Config) -> Iterator[None]:
    """Make the work dir and keep other trainings out of it.

    Of several ranks the first one locks it for all. On a node that has a work dir of
    its own the others write nothing but a log, which is no other training's. The lock
    ends with the process, however that ends.

    Raises:
        RuntimeError: another process trains there; the message names it.
        OSError: nothing can be written there.
        OtherRankError: another rank has failed so.
    """
    folder = cfg.work_dir
    lock = FileLock(Path(folder, '.training.lock'))
    owner = Path(folder, '.training.json')
    try:
        with together():
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                if is_main_process():
                    _acquire(lock, owner, folder)
                    text = json.dumps(dict(pid=os.getpid(), host=host()))
                    owner.write_text(text, encoding='utf-8')
            except OSError as error:
                problem = f'Nothing can be written there ({error.strerror or error}).'
                remedy = 'Give another --work-dir.'
                raise OSError(describe(KEY, folder, problem, remedy)) from error
        yield
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, owner: Path, folder: str) -> None:
    """Take the lock, or refuse the folder if a living process has it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            name, is_dead = _owner_in(owner)
            if not is_dead or time.monotonic() > deadline:
                doing = 'is dead, and its workers are' if is_dead else 'is training'
                problem = f'{name} {doing} there.'
                remedy = 'Wait for its end, or give another --work-dir.'
                raise RuntimeError(describe(KEY, folder, problem, remedy)) from None
        # Some network's folders have no locks. If the folder cannot be written, the
        # owner's file cannot either.
        except (OSError, NotImplementedError) as error:
            text = f'{folder} cannot be locked ({error}): let no other training use it.'
            print_log(text, 'current', logging.WARNING)
            return
        time.sleep(POLL)


def _owner_in(file: Path) -> tuple[str, bool]:
    """Return which process has the lock, and whether it is known to be dead."""
    try:
        owner = json.loads(file.read_text(encoding='utf-8'))
        pid, place = int(owner['pid']), owner['host']
    except (OSError, ValueError, KeyError, TypeError):
        return 'Another process', False
    is_dead = False
    if place == host():
        try:
            os.kill(pid, 0)  # which only asks
        except ProcessLookupError:
            is_dead = True
        except PermissionError:  # It lives, and is another user's.
            pass
    return f'Process {pid} on {place}', is_dead


def check_room(runner: Runner) -> None:
    """Refuse a disk on which there is no room for the first checkpoints.

    Raises:
        OSError: naming the work dir, what is free and what is needed.
    """
    weights = runner.model.state_dict().values()
    needed = ROOM * sum(value.numel() * value.element_size() for value in weights)
    free = disk_usage(runner.work_dir).free
    if free < needed:
        problem = (
            f'{free >> 20} MiB are free, but two checkpoints take at least '
            f'{needed >> 20} MiB.'
        )
        remedy = 'Make room, or give another --work-dir.'
        raise OSError(describe(KEY, runner.work_dir, problem, remedy))
