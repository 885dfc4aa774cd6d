"""One training process: started, continued, read, written down as done."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

from mmengine.config import Config

from cakd_mm.engine.launch.options import parse, spell
from cakd_mm.utils.checkpoint import hash_of
from cakd_mm.utils.errors import describe
from cakd_mm.utils.machine import cores, end_with
from cakd_mm.utils.tools import as_argument, tool
from cakd_mm.utils.whole_file import write_whole
from cakd_mm.visualization.history import LOG, METRIC, lines_of, logged_lines
from cakd_mm.visualization.sweep import dotted, influencing, settings_of

from .provenance import commit, machine, versions
from .records import FAILED, RESULT, STARTS, read_record

RESULT_FILE, STARTS_FILE = 'result.json', 'starts.json'
THREADS = 'OMP_NUM_THREADS'


def write_json(path: Path, content: dict) -> None:
    """Write json so that a reader finds all of it or none, whenever we are killed."""
    text = json.dumps(content, indent=2, allow_nan=False) + '\n'
    write_whole(path, text.encode())


def _epoch(line: dict) -> int:
    return line.get('epoch', line['step'])  # The step of a validation is its epoch.


def read_config(path: Path) -> Config:
    """Return a config, read once however many seeds it has; not to be changed."""
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, changed: int) -> Config:
    return Config.fromfile(path, import_custom_modules=False)


def hash_now(path: Path) -> str:
    """Return a file's hash, read once as long as nobody writes to the file."""
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@cache
def _hash(path: Path, *changed: int) -> str:
    return hash_of(path)


def end_of(path: Path, size: int = 1 << 13) -> str:
    """Return the last ``size`` bytes of a log, cut short or not."""
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors='replace')


@dataclass
class Run:
    """One training run: what it is, and what its files say so far.

    A run is finished when it has a ``result.json``, which is written after its process
    has ended well. The process locks a file, so that no second one uses its work dir.

    Args:
        name (str): What messages call the run.
        config (Path): The config file.
        work_dir (Path): Its folder; what it prints goes to ``<work_dir>.log``.
        options (list[str]): As after ``--cfg-options``.
        teacher (Run, optional): Has to be finished first; its checkpoint becomes
            ``model.teacher_ckpt``. Defaults to None.
        checkpoint (Path, optional): Score this with ``tools/test.py`` instead of
            training. Defaults to None.
    """

    name: str
    config: Path
    work_dir: Path
    options: list[str] = field(default_factory=list)
    teacher: 'Run | None' = None
    checkpoint: Path | None = None
    process: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        """Read its config."""
        cfg = deepcopy(read_config(self.config))
        options = dict(option.split('=', 1) for option in self.options)
        cfg.merge_from_dict({key: parse(text) for key, text in options.items()})
        self.epochs = int(cfg.train_cfg.max_epochs)
        settings = influencing(cfg)
        settings['randomness', 'seed'] = (cfg.get('randomness') or {}).get('seed')
        if self.teacher is not None:  # Its file may move: a hash identifies it.
            settings.pop(('model', 'teacher_ckpt'), None)
        if self.checkpoint is not None:
            settings |= settings_of({'scored_on': cfg.get('test_dataloader')})
        named = {dotted(key): value for key, value in settings.items()}
        text = json.dumps(named, sort_keys=True, default=str)
        self.settings = hashlib.sha256(text.encode()).hexdigest()
        self._result: dict = {}

    def check(self, starts: list[dict] | None = None) -> None:
        """Refuse a work dir that holds another run.

        Args:
            starts (list[dict], optional): Starts to check. Defaults to its own.

        Raises:
            ValueError: it was started with other settings, with a teacher that is lost
                or has been trained anew since, or scored another checkpoint.
        """
        teacher = self.teacher and self.teacher.sha256
        for start in self.starts if starts is None else starts:
            if start['settings'] != self.settings:
                self._refuse(f'It holds {self.name} with other settings.')
            if start['teacher_sha256'] != teacher:
                now = 'is now' if teacher else 'which has no result now'
                other = self.teacher and self.teacher.last_checkpoint
                self._refuse(
                    f'{self.name} in it learned from another teacher than '
                    f'{other} {now}.'
                )
        scored = self.checkpoint and self.result
        if scored and self.result['checkpoint_sha256'] != self.sha256:
            self._refuse(f'It has the score of another file than {self.checkpoint} is.')
        if self.teacher is not None:
            self.teacher.check_checkpoint()

    def check_checkpoint(self) -> None:
        """Refuse a checkpoint that has changed since the run finished.

        Raises:
            ValueError: naming the file.
        """
        path = self.last_checkpoint
        if not self.finished or not path.is_file():
            return
        if hash_now(path) != self.result['checkpoint_sha256']:
            problem = f'It is no longer the file that {self.name} has left.'
            remedy = (
                f'Put that file back, or delete {self.work_dir} and the folders of all '
                'who learned from it, so that they are trained anew.'
            )
            raise ValueError(describe('model.teacher_ckpt', str(path), problem, remedy))

    def _refuse(self, problem: str) -> None:
        remedy = 'Give another --work-dir, or delete that folder.'
        raise ValueError(describe('work_dir', str(self.work_dir), problem, remedy))

    @property
    def log(self) -> Path:
        """The file with all the process printed."""
        return self.work_dir.with_name(f'{self.work_dir.name}.log')

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint that the whole run leaves, or the one that is scored."""
        return self.checkpoint or self.work_dir / f'epoch_{self.epochs}.pth'

    @property
    def starts(self) -> list[dict]:
        """When it was started, by which code, on which packages."""
        found = read_record(self.work_dir / STARTS_FILE, STARTS)
        if found is None:  # A result has them, too.
            found = read_record(self.work_dir / RESULT_FILE, RESULT) or {}
        return found.get('starts', [])

    @property
    def result(self) -> dict:
        """What the finished run was written down with; empty before.

        A run whose records are damaged is not finished, because nobody knows any more
        what it is.
        """
        whole = self._result or read_record(self.work_dir / STARTS_FILE, STARTS)
        if not self._result and whole is not None:
            self._result = read_record(self.work_dir / RESULT_FILE, RESULT) or {}
        return self._result

    @property
    def sha256(self) -> str | None:
        """The hash of the checkpoint it leaves; None before."""
        if self.checkpoint:
            return hash_now(self.checkpoint)
        return self.result.get('checkpoint_sha256')

    @property
    def failure(self) -> str | None:
        """Why it failed the last time, if so."""
        path = self.work_dir / 'failed.json'
        if self.finished:
            return None
        return (read_record(path, FAILED) or {}).get('reason')

    def note_failure(self, reason: str | None) -> None:
        """Keep why it failed; None to forget it."""
        path = self.work_dir / 'failed.json'
        if reason is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, dict(reason=reason))

    @property
    def finished(self) -> bool:
        """Whether it has ended well."""
        return bool(self.result)

    @property
    def top1(self) -> float:
        """Top-1 after the last epoch, in percent of the validation set."""
        return self.result['top1']

    def start(self, environment: dict[str, str] | None = None) -> bool:
        """Start, or go on from the newest whole checkpoint in the work dir.

        Args:
            environment (dict, optional): Variables beside those of this process.

        Returns:
            bool: False if another process is at it, or has just finished it.

        Raises:
            ValueError: see :meth:`check`.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with (self.work_dir / 'lock').open('w', encoding='utf-8') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if self.finished:
                return False
            self.check()
            self._set_aside_unknown()
            self._note_start(int((environment or {}).get(THREADS, 0)) or cores())
            with self.log.open('a', encoding='utf-8') as log:
                self.process = subprocess.Popen(
                    self._command(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                    pass_fds=[lock.fileno()],  # so that the process holds the lock
                    preexec_fn=partial(end_with, os.getpid()),
                )
        return True

    def _set_aside_unknown(self) -> None:
        """Go on from no checkpoint of which nobody knows how it was trained."""
        if read_record(self.work_dir / STARTS_FILE, STARTS) is None and not self.starts:
            aside = self.work_dir / f'unknown_before_{time.time_ns()}'
            found = [path for path in self.work_dir.iterdir() if path.name != 'lock']
            aside.mkdir()
            for path in found:
                path.rename(aside / path.name)

    def _note_start(self, threads: int) -> None:
        start = dict(
            began=time.time(),
            threads=threads,
            settings=self.settings,
            teacher_sha256=self.teacher and self.teacher.sha256,
            commit=commit(),
            versions=versions(),
            machine=machine(),
        )
        write_json(self.work_dir / STARTS_FILE, dict(starts=[*self.starts, start]))

    def _command(self) -> list[str]:
        name = 'test.py' if self.checkpoint else 'train.py'
        command = [sys.executable, '-W', 'ignore', str(tool(name)), str(self.config)]
        command.append(as_argument(self.checkpoint) if self.checkpoint else '--resume')
        command += ['--work-dir', as_argument(self.work_dir)]
        options = list(self.options)
        if self.teacher is not None:
            checkpoint = spell(str(self.teacher.last_checkpoint))
            options.append(f'model.teacher_ckpt={checkpoint}')
        if options:
            command += ['--cfg-options', *options]
        return command

    def write_result(self) -> None:
        """Write down a run whose process has ended well.

        Raises:
            RuntimeError: its last epoch has no score.
        """
        if self.checkpoint:
            logs = sorted(self.work_dir.glob('*/*.json'))[-1:]
            texts = [log.read_text(encoding='utf-8') for log in logs]
            curve = [(self.epochs, json.loads(text)[METRIC]) for text in texts]
        else:
            curve = self.curve(METRIC)
        if not curve or curve[-1][0] != self.epochs:
            raise RuntimeError(
                f'{self.name} ended, but {self.work_dir} has no score of epoch '
                f'{self.epochs}. Does its config validate the last epoch?'
            )
        content = dict(
            name=self.name,
            top1=curve[-1][1],
            epochs=self.epochs,
            curve=curve,
            loss=self.curve('loss'),
            seconds=round(self.seconds, 1),
            checkpoint_sha256=hash_of(self.last_checkpoint),
            teacher_sha256=self.teacher and self.teacher.sha256,
            options=self.options,
            starts=self.starts,
        )
        write_json(self.work_dir / RESULT_FILE, content)

    @property
    def seconds(self) -> float:
        """How long its processes have run, until each last wrote to its log."""
        files = self.work_dir.glob('*/*.log')
        ends = sorted(file.stat().st_mtime for file in files)
        total = 0.0
        began = [start['began'] for start in self.starts]
        for first, after in pairwise([*began, float('inf')]):
            of_start = [end for end in ends if first <= end < after]
            total += max(of_start, default=first) - first
        return total

    def curve(self, key: str) -> list[tuple[int, float]]:
        """Return (epoch, value) of a scalar; of an epoch run twice, the latest."""
        found = {}
        for file in sorted(self.work_dir.glob(LOG)):  # the logs of all starts, in turn
            for line in lines_of(file):
                if key in line:
                    found[_epoch(line)] = line[key]
        return sorted(found.items())

    @property
    def epoch(self) -> int:
        """The last epoch that was logged, read from the end of a log only."""
        files = sorted(self.work_dir.glob(LOG), reverse=True)
        for path in files:
            lines = logged_lines(end_of(path))
            if lines:
                return _epoch(lines[-1])
        return 0


def made_with(runs: Iterable[Run]) -> dict[str, list]:
    """Return what finished runs were trained with: each thing once.

    Threads are those of a process; older starts did not note them.
    """
    starts = [start for run in runs if run.finished for start in run.result['starts']]
    versions = [start['versions'] for start in starts]
    return dict(
        commits=sorted({start['commit'] for start in starts}),
        versions=[x for i, x in enumerate(versions) if x not in versions[:i]],
        machines=sorted({start['machine'] for start in starts}),
        threads=sorted({start['threads'] for start in starts if 'threads' in start}),
    )
