"""Teacher, plain student and CAKD student on real digit scans, in one command.

Trains everything through ``tools/train.py``, extracts the best CAKD student,
scores it with mmpretrain's own test tool, and writes ``summary.json`` and
``curves.png``. A demo that was killed goes on where it was; one that has ended begins
anew.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cakd_mm.engine.launch.options import spell
from cakd_mm.utils.machine import cores, end_with
from cakd_mm.utils.tool_process import start_tool
from cakd_mm.utils.tools import as_argument
from cakd_mm.utils.whole_file import write_whole
from cakd_mm.visualization.history import METRIC, mean_curve, read_logs

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
TRAIN = ROOT / 'tools' / 'train.py'
POLL = 0.5  # seconds


@dataclass
class Run:
    """One training run.

    Args:
        name (str): What messages call the run.
        config (str): Its path in ``configs/``.
        work_dir (Path): Its folder; what the process prints goes to ``<work_dir>.log``.
        seed (int): Fixes weights, order and augmentation.
        teacher (Run, optional): Has to be finished first. Defaults to None.
    """

    name: str
    config: str
    work_dir: Path
    seed: int
    teacher: 'Run | None' = None

    def __post_init__(self) -> None:
        """Read the number of epochs."""
        cfg = Config.fromfile(CONFIGS / self.config, import_custom_modules=False)
        self.epochs: int = cfg.train_cfg.max_epochs
        self.log = self.work_dir.with_name(f'{self.work_dir.name}.log')
        self.end = self.work_dir / 'finished'  # written when its process ended well

    @property
    def finished(self) -> bool:
        """Whether its process has ended well."""
        return self.end.is_file()

    @property
    def scores(self) -> dict[int, float]:
        """Top-1 in percent by epoch, as far as it has come."""
        return read_logs(self.work_dir)[0].scores

    @property
    def top1(self) -> float:
        """Top-1 in percent after the last epoch."""
        return self.scores[self.epochs]

    def command(self) -> list[str]:
        """Return what trains it, going on where it was."""
        command = [sys.executable, '-W', 'ignore', str(TRAIN)]
        command.append(str(CONFIGS / self.config))
        command += ['--work-dir', as_argument(self.work_dir), '--resume']
        command += ['--cfg-options', f'randomness.seed={self.seed}']
        if self.teacher is not None:
            checkpoint = self.teacher.work_dir / f'epoch_{self.teacher.epochs}.pth'
            command.append(f'model.teacher_ckpt={spell(str(checkpoint))}')
        return command

    def start(self, environment: dict[str, str]) -> subprocess.Popen:
        """Start its process, with variables beside those of this one."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open('a', encoding='utf-8') as log:
            return subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                preexec_fn=partial(end_with, os.getpid()),
            )


def train_all(runs: list[Run], jobs: int, console: Console) -> None:
    """Train what is not finished, ``jobs`` at a time, in the order given.

    Raises:
        SystemExit: a run failed; the others stop, and its log's end is shown.
    """
    environment = {'OMP_NUM_THREADS': str(max(1, cores() // jobs))}
    waiting = [run for run in runs if not run.finished]
    running: list[tuple[Run, subprocess.Popen]] = []
    progress = Progress(
        TextColumn('{task.description:<42}'),
        BarColumn(),
        TextColumn('{task.completed}/{task.total} epochs'),
        TimeElapsedColumn(),
        console=console,
    )
    with progress:
        bars = {}
        try:
            while waiting or running:
                for run in list(waiting):
                    ready = run.teacher is None or run.teacher.finished
                    if ready and len(running) < jobs:
                        waiting.remove(run)
                        running.append((run, run.start(environment)))
                        bar = progress.add_task(run.name, total=run.epochs)
                        bars[run.name] = bar
                time.sleep(POLL)
                for run, process in list(running):
                    code = process.poll()
                    if code:
                        raise SystemExit(failure(run, code))
                    if code == 0:
                        running.remove((run, process))
                        run.end.touch()
                        console.print(f'{run.name}: {run.top1:.2f} %', highlight=False)
                    epoch = max(run.scores, default=0)
                    progress.update(bars[run.name], completed=epoch)
        finally:
            for _, process in running:
                process.kill()
                process.wait()


def failure(run: Run, code: int) -> str:
    """Return its command, the end of what it printed, and last why a run failed."""
    lines = run.log.read_text(encoding='utf-8', errors='replace').splitlines()[-15:]
    how = f'killed by signal {-code}' if code < 0 else f'exit status {code}'
    cause = f'{run.name} failed ({how}), see {run.log}: {"".join(lines[-1:])}'
    command = shlex.join(run.command())
    return '\n'.join([*lines[:-1], f'The command was: {command}', cause])


def score_with_mmpretrain(student: Path, work_dir: Path) -> float:
    """Score an extracted student with mmpretrain's own test tool, in percent."""
    package = Path(find_spec('mmpretrain').origin).parent
    tool = package / '.mim' / 'tools' / 'test.py'
    command = [sys.executable, '-W', 'ignore', str(tool)]
    command += [as_argument(student.with_suffix('.py')), as_argument(student)]
    command += ['--work-dir', as_argument(work_dir)]
    command += ['--out', as_argument(work_dir / 'metrics.json')]
    command += ['--out-item', 'metrics']
    work_dir.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command, capture_output=True, encoding='utf-8', errors='replace'
    )
    if done.returncode:
        end = done.stderr[-2000:]
        raise SystemExit(f'mmpretrain could not score {student}:\n{end}')
    return json.loads((work_dir / 'metrics.json').read_text(encoding='utf-8'))[METRIC]


def plot(groups: dict[str, list[Run]], path: Path) -> None:
    """Draw top-1 per epoch: each run thin, the mean over seeds thick."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for (name, runs), colour in zip(groups.items(), ('C7', 'C0', 'C3'), strict=True):
        curves = [sorted(run.scores.items()) for run in runs]
        for curve in curves:
            axis.plot(*zip(*curve, strict=True), color=colour, linewidth=0.7, alpha=0.5)
        epochs, average = zip(*mean_curve(curves), strict=True)
        seeds = f', mean of {len(runs)} seeds' if len(runs) > 1 else ''
        label = f'{name}{seeds}: {average[-1]:.1f} %'
        axis.plot(epochs, average, color=colour, linewidth=2, label=label)
    axis.set(xlabel='epoch', ylabel='top-1 on the test split (%)', ylim=(None, 100.5))
    axis.set_title('Digits: resnet20 teaches resnet8')
    axis.grid(alpha=0.3)
    axis.legend(loc='lower right')
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def show(groups: dict[str, list[Run]], summary: dict, console: Console) -> None:
    """Print the table."""
    table = Table(title='Top-1 on the 797 test scans, last epoch')
    for column in ('', 'epochs', 'seeds', 'mean %', 'std', 'each seed'):
        table.add_column(column, justify='left' if not column else 'right')
    for name, runs in groups.items():
        scores = [run.top1 for run in runs]
        spread = f'{stdev(scores):.2f}' if len(scores) > 1 else '-'
        each = '  '.join(f'{score:.2f}' for score in scores)
        count = str(len(scores))
        epochs = str(runs[0].epochs)
        table.add_row(name, epochs, count, f'{mean(scores):.2f}', spread, each)
    console.print(table)
    console.print(
        f'Best CAKD student {summary["cakd_best_top1"]:.2f} %; extracted and scored by '
        f'mmpretrain alone {summary["converted_top1"]:.2f} %. (Best of the seeds on '
        'the test split: an example to hold in hand, not a result.)'
    )


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=2, help='processes at a time')
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f'--jobs {args.jobs}: it counts processes; write 2, say')
    return args


def plan(args: argparse.Namespace) -> dict[str, list[Run]]:
    """Return all runs, grouped by what they are."""
    teacher = Run(
        'teacher resnet20', 'vanilla/resnet20_digits.py', args.work_dir / 'teacher', 0
    )
    alone, cakd = [], []
    for seed in args.seeds:
        name, folder = f'student alone, seed {seed}', f'student_seed{seed}'
        config = 'vanilla/resnet8_digits.py'
        alone.append(Run(name, config, args.work_dir / folder, seed))
        name, folder = f'student + CAKD, seed {seed}', f'cakd_seed{seed}'
        config = 'cakd/demo_digits.py'
        cakd.append(Run(name, config, args.work_dir / folder, seed, teacher))
    return {'teacher': [teacher], 'student alone': alone, 'student + CAKD': cakd}


def main() -> None:
    """Run the demo."""
    args = parse_args()
    start = time.time()
    groups = plan(args)
    alone, cakd = groups['student alone'], groups['student + CAKD']
    console = Console()
    runs = [*groups['teacher'], *alone, *cakd]
    written = args.work_dir / 'summary.json'
    if written.is_file():  # The last demo has ended, so this one begins anew.
        written.unlink()
        for run in runs:
            shutil.rmtree(run.work_dir, ignore_errors=True)
    train_all(runs, args.jobs, console)
    best = max(cakd, key=lambda run: run.top1)
    student = best.work_dir / 'student.pth'
    summary = dict(
        teacher_top1=groups['teacher'][0].top1,
        student_top1=mean(run.top1 for run in alone),
        cakd_top1=mean(run.top1 for run in cakd),
        cakd_best_top1=best.top1,
        converted_top1=score_with_mmpretrain(student, args.work_dir / 'converted'),
        student_checkpoint=str(student),
    )
    plot(groups, args.work_dir / 'curves.png')
    summary['seconds'] = round(time.time() - start, 1)
    write_whole(written, (json.dumps(summary, indent=2) + '\n').encode())
    show(groups, summary, console)
    seconds = summary['seconds']
    console.print(f'{seconds} s; summary, curves and students in {args.work_dir}')


if __name__ == '__main__':
    start_tool()
    main()
