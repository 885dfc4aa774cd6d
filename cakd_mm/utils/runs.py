"""Training processes of a study: started, watched, continued, and read."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config
from rich.progress import Progress

TRAIN = Path('tools') / 'train.py'
METRIC = 'accuracy/top1'


def one_thread() -> dict[str, str]:
    """Return the environment for processes that share the cores."""
    return {**os.environ, 'OMP_NUM_THREADS': '1'}


def train_tool() -> Path:
    """Return the training tool: the checkout's, or the installed one."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / TRAIN
    return checkout if checkout.is_file() else package / '.mim' / TRAIN


def logged_lines(text: str) -> list[dict]:
    """Return the scalars of each step that mmengine's json log has."""
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # a run under way is writing it
            continue
    return [line for line in lines if 'step' in line]


def _epoch(line: dict) -> int:
    return line.get('epoch', line['step'])  # a validation's step is its epoch


@dataclass
class Run:
    """One training run: what it is, and what its log says so far.

    Args:
        name (str): For people.
        config (Path): The config file.
        work_dir (Path): Where it goes; its output to ``<work_dir>.log``.
        options (list[str]): As after ``--cfg-options``.
    """

    name: str
    config: Path
    work_dir: Path
    options: list[str] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        """Read how long it is."""
        cfg = Config.fromfile(self.config, import_custom_modules=False)
        options = dict(option.split('=', 1) for option in self.options)
        self.epochs = int(options.get('train_cfg.max_epochs', cfg.train_cfg.max_epochs))

    def start(self) -> None:
        """Start, or go on from the newest checkpoint in the work dir."""
        self.work_dir.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, '-W', 'ignore', str(train_tool()), str(self.config)]
        command += ['--work-dir', str(self.work_dir)]
        if (self.work_dir / 'last_checkpoint').is_file():
            command.append('--resume')
        if self.options:
            command += ['--cfg-options', *self.options]
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=one_thread()
            )

    @property
    def log(self) -> Path:
        """The file with all the process printed."""
        return self.work_dir.with_name(f'{self.work_dir.name}.log')

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint that the whole run leaves."""
        return self.work_dir / f'epoch_{self.epochs}.pth'

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
        """The last epoch of which anything has been logged."""
        return max(map(_epoch, self.logged()), default=0)

    @property
    def finished(self) -> bool:
        """Whether its last epoch has been scored."""
        curve = self.curve(METRIC)
        return bool(curve) and curve[-1][0] == self.epochs

    @property
    def top1(self) -> float:
        """Top-1 after the last epoch, in percent of the validation set."""
        return self.curve(METRIC)[-1][1]


def train_all(runs: list[Run], jobs: int, progress: Progress) -> None:
    """Train those runs that are not finished, ``jobs`` at a time, with a bar each.

    Raises:
        SystemExit: a run failed; its log's end is printed.
    """
    bars = {run.name: progress.add_task(run.name, total=run.epochs) for run in runs}
    for run in runs:
        if run.finished:
            progress.update(bars[run.name], completed=run.epochs)
    waiting, running = [run for run in runs if not run.finished], []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(waiting.pop(0))
            running[-1].start()
        time.sleep(0.5)
        for run in list(running):
            progress.update(bars[run.name], completed=run.epoch)
            if run.process.poll() is None:
                continue
            running.remove(run)
            if run.process.returncode:
                for other in running:
                    other.process.kill()
                end = ''.join(run.log.read_text().splitlines(keepends=True)[-15:])
                raise SystemExit(f'{run.name} failed; the end of {run.log}:\n{end}')
            progress.console.print(f'{run.name}: {run.top1:.2f} %')
