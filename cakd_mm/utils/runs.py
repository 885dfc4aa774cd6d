"""One training process of a study: started, continued, read, written down as done."""

import ctypes
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from mmengine.config import Config, DictAction

from .errors import describe
from .provenance import commit, versions

METRIC = 'accuracy/top1'
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
TAIL = 1 << 13  # bytes: several lines of a log


def tool(name: str) -> Path:
    """Return a command-line tool: the checkout's, or the installed one."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / 'tools' / name
    return checkout if checkout.is_file() else package / '.mim' / 'tools' / name


def logged_lines(text: str) -> list[dict]:
    """Return the scalars of each step that mmengine's json log has."""
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # a run under way is writing it, or was killed
            continue
    return [line for line in lines if 'step' in line]


def write_whole(path: Path, content: dict) -> None:
    """Write json so that a reader finds all of it or none, whenever we are killed."""
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    part.write_text(json.dumps(content, indent=2) + '\n')
    part.replace(path)


def _epoch(line: dict) -> int:
    return line.get('epoch', line['step'])  # a validation's step is its epoch


def _die_with_parent() -> None:
    """Leave no training behind when the study is killed (Linux)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Run:
    """One training run: what it is, and what its files say so far.

    Done is what has a ``result.json``, written after the process has ended well. A
    file locked by the process itself keeps two of them from one work dir.

    Args:
        name (str): For people.
        config (Path): The config file.
        work_dir (Path): Where it goes; its output to ``<work_dir>.log``.
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
        cfg = Config.fromfile(self.config, import_custom_modules=False)
        options = dict(option.split('=', 1) for option in self.options)
        parsed = {k: DictAction._parse_iterable(v) for k, v in options.items()}
        cfg.merge_from_dict(parsed)
        self.epochs = int(cfg.train_cfg.max_epochs)
        content = cfg.to_dict()
        if self.teacher is not None:  # known by its hash; it may move
            content['model'].pop('teacher_ckpt')
        text = json.dumps(content, sort_keys=True, default=str)
        self.settings = hashlib.sha256(text.encode()).hexdigest()
        self._result = None

    def check(self) -> None:
        """Refuse a work dir that holds another run.

        Raises:
            ValueError: it was started with other settings.
        """
        starts = self.starts
        if starts and starts[0]['settings'] != self.settings:
            problem = f'It holds {self.name} with other settings.'
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
        path = self.work_dir / 'starts.json'
        return json.loads(path.read_text())['starts'] if path.is_file() else []

    @property
    def result(self) -> dict | None:
        """What the finished run was written down with; None before."""
        path = self.work_dir / 'result.json'
        if self._result is None and path.is_file():
            self._result = json.loads(path.read_text())
        return self._result

    @property
    def finished(self) -> bool:
        """Whether it has ended well."""
        return self.result is not None

    @property
    def top1(self) -> float:
        """Top-1 after the last epoch, in percent of the validation set."""
        return self.result['top1']

    def newest_checkpoint(self) -> Path | None:
        """Return the checkpoint to go on from; one that a kill cut short is none."""
        found = self.work_dir.glob('epoch_*.pth')
        for path in sorted(found, key=lambda p: -int(p.stem.rpartition('_')[2])):
            if zipfile.is_zipfile(path):  # its directory is written last
                return path
        return None

    def start(self, environment: dict[str, str] | None = None) -> bool:
        """Start, or go on from the newest checkpoint in the work dir.

        Args:
            environment (dict, optional): Variables beside those of this process.

        Returns:
            bool: False if another process is at it.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with (self.work_dir / 'lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._note_start()
            with self.log.open('a') as log:
                self.process = subprocess.Popen(
                    self._command(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                    pass_fds=[lock.fileno()],  # held as long as the process lives
                    preexec_fn=_die_with_parent,
                )
        return True

    def _note_start(self) -> None:
        own = dict(
            began=time.time(),
            settings=self.settings,
            commit=commit(),
            versions=versions(),
        )
        write_whole(self.work_dir / 'starts.json', dict(starts=[*self.starts, own]))

    def _command(self) -> list[str]:
        name = 'test.py' if self.checkpoint else 'train.py'
        command = [sys.executable, '-W', 'ignore', str(tool(name)), str(self.config)]
        if self.checkpoint:
            command.append(str(self.checkpoint))
        command += ['--work-dir', str(self.work_dir)]
        newest = None if self.checkpoint else self.newest_checkpoint()
        if newest:
            command += ['--resume', str(newest)]
        options = list(self.options)
        if self.teacher is not None:
            options.append(f'model.teacher_ckpt={self.teacher.last_checkpoint}')
        if options:
            command += ['--cfg-options', *options]
        return command

    def write_result(self) -> None:
        """Write down a run whose process has ended well.

        Raises:
            RuntimeError: its last epoch has no score.
        """
        if self.checkpoint:
            *_, log = sorted(self.work_dir.glob('*/*.json'))
            curve = [(self.epochs, json.loads(log.read_text())[METRIC])]
        else:
            curve = self.curve(METRIC)
        if not curve or curve[-1][0] != self.epochs:
            raise RuntimeError(
                f'{self.name} ended, but {self.work_dir} has no score of epoch '
                f'{self.epochs}. Does its config validate the last epoch?'
            )
        digest = hashlib.sha256(self.last_checkpoint.read_bytes()).hexdigest()
        content = dict(
            name=self.name,
            top1=curve[-1][1],
            epochs=self.epochs,
            curve=curve,
            loss=self.curve('loss'),
            seconds=round(self.seconds, 1),
            checkpoint_sha256=digest,
            teacher_sha256=self.teacher and self.teacher.result['checkpoint_sha256'],
            options=self.options,
            starts=self.starts,
        )
        write_whole(self.work_dir / 'result.json', content)

    @property
    def seconds(self) -> float:
        """How long its processes have run, until each last wrote to its log."""
        files = self.work_dir.glob('*/*.log')
        ends = sorted(file.stat().st_mtime for file in files)
        total = 0.0
        began = [start['began'] for start in self.starts]
        for first, after in pairwise([*began, float('inf')]):
            own = [end for end in ends if first <= end < after]
            total += max(own, default=first) - first
        return total

    def logged(self) -> list[dict]:
        """Return the lines of its logs, of all its starts in turn."""
        files = sorted(self.work_dir.glob('*/vis_data/scalars.json'))
        return [line for file in files for line in logged_lines(file.read_text())]

    def curve(self, key: str) -> list[tuple[int, float]]:
        """Return (epoch, value) of a scalar; of an epoch run twice, the latest."""
        lines = [line for line in self.logged() if key in line]
        return sorted({_epoch(line): line[key] for line in lines}.items())

    @property
    def epoch(self) -> int:
        """The epoch last logged of; a look at the log's end, for it is asked often."""
        files = sorted(self.work_dir.glob('*/vis_data/scalars.json'), reverse=True)
        for path in files:
            with path.open('rb') as file:
                file.seek(max(0, path.stat().st_size - TAIL))
                lines = logged_lines(file.read().decode(errors='replace'))
            if lines:
                return _epoch(lines[-1])
        return 0
