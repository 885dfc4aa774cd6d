"""Teacher, plain student and CAKD student on real scans, in one command.

``--task`` chooses what they learn: to classify scans of digits, or to segment or detect
those digits in scenes that are composed of the scans. Trains everything through
``tools/train.py``, extracts the best CAKD student, scores it with the test tool of
mmpretrain, mmseg or mmdet, and writes ``summary.json`` and a picture. A demo that was
killed goes on where it was; one that has ended begins anew.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
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

from cakd_mm.compat import OPTIONAL
from cakd_mm.engine.launch.options import spell
from cakd_mm.utils.machine import cores, end_with
from cakd_mm.utils.tool_process import start_tool
from cakd_mm.utils.tools import as_argument
from cakd_mm.utils.whole_file import write_whole
from cakd_mm.visualization.history import METRIC, mean_curve, read_logs
from cakd_mm.visualization.predictions import draw_predictions

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
TRAIN = ROOT / 'tools' / 'train.py'
POLL = 0.5  # seconds
# Runs a script. The scans are ours, and what mmdet needs where mmcv is not compiled.
ALONE = ['-m', 'cakd_mm.cli', 'run']


@dataclass(frozen=True)
class Demo:
    """What is trained and scored for a task.

    Args:
        project (str): Whose test tool scores the extracted student.
        configs (dict[str, str]): Path in ``configs/`` of each group of runs.
        nets (tuple[str, str]): What teacher and student are called.
        metric (str): The key of the score in the log.
        full (float): The score that is 100 %.
        score (str): What the score is called.
        title (str): What is scored on what.
        draw (Callable): Writes a picture of the groups of runs into a folder.
    """

    project: str
    configs: dict[str, str]
    nets: tuple[str, str]
    metric: str
    full: float
    score: str
    title: str
    draw: Callable[['Demo', dict[str, list['Run']], Path], Path]


@dataclass
class Run:
    """One training run.

    Args:
        name (str): What messages call the run.
        config (str): Its path in ``configs/``.
        work_dir (Path): Its folder; what the process prints goes to ``<work_dir>.log``.
        seed (int): Fixes weights, order and augmentation.
        demo (Demo): Says how it is scored.
        teacher (Run, optional): Has to be finished first. Defaults to None.
    """

    name: str
    config: str
    work_dir: Path
    seed: int
    demo: Demo
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
        """The score in percent by epoch, as far as it has come."""
        lines = read_logs(self.work_dir)[0].val
        key, full = self.demo.metric, self.demo.full
        return {x['step']: 100 / full * x[key] for x in lines if key in x}

    @property
    def score(self) -> float:
        """The score in percent after the last epoch."""
        return self.scores[self.epochs]

    @property
    def epoch(self) -> int:
        """The last epoch that has begun, as far as the log tells."""
        lines = read_logs(self.work_dir)[0].train
        return max((line.get('epoch', 0) for line in lines), default=0)

    @property
    def checkpoint(self) -> Path:
        """The file with its weights after the last epoch."""
        return self.work_dir / f'epoch_{self.epochs}.pth'

    def command(self) -> list[str]:
        """Return what trains it, going on where it was."""
        command = [sys.executable, '-W', 'ignore', str(TRAIN)]
        command.append(str(CONFIGS / self.config))
        command += ['--work-dir', as_argument(self.work_dir), '--resume']
        command += ['--cfg-options', f'randomness.seed={self.seed}']
        if self.teacher is not None:
            checkpoint = spell(str(self.teacher.checkpoint))
            command.append(f'model.teacher_ckpt={checkpoint}')
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
                        console.print(f'{run.name}: {run.score:.2f} %', highlight=False)
                    progress.update(bars[run.name], completed=run.epoch)
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


def score_alone(demo: Demo, student: Path, work_dir: Path) -> float:
    """Score an extracted student with its project's own test tool, in percent."""
    package = Path(find_spec(demo.project).origin).parent
    tool = package / '.mim' / 'tools' / 'test.py'
    command = [sys.executable, '-W', 'ignore', *ALONE, str(tool)]
    command += [as_argument(student.with_suffix('.py')), as_argument(student)]
    command += ['--work-dir', as_argument(work_dir)]
    shutil.rmtree(work_dir, ignore_errors=True)
    done = subprocess.run(
        command, capture_output=True, encoding='utf-8', errors='replace'
    )
    if done.returncode:
        end = done.stderr[-2000:]
        raise SystemExit(f'{demo.project} could not score {student}:\n{end}')
    [scores] = work_dir.glob('*/*.json')
    score = json.loads(scores.read_text(encoding='utf-8'))[demo.metric]
    return 100 / demo.full * score


def draw_curves(demo: Demo, groups: dict[str, list[Run]], folder: Path) -> Path:
    """Draw the score by epoch: each run thin, the mean over seeds thick."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for (name, runs), colour in zip(groups.items(), ('C7', 'C0', 'C3'), strict=True):
        curves = [sorted(run.scores.items()) for run in runs]
        for curve in curves:
            axis.plot(*zip(*curve, strict=True), color=colour, linewidth=0.7, alpha=0.5)
        epochs, average = zip(*mean_curve(curves), strict=True)
        seeds = f', mean of {len(runs)} seeds' if len(runs) > 1 else ''
        label = f'{name}{seeds}: {average[-1]:.1f} %'
        axis.plot(epochs, average, color=colour, linewidth=2, label=label)
    label = f'{demo.score} on the test split (%)'
    axis.set(xlabel='epoch', ylabel=label, ylim=(None, 100.5))
    axis.set_title(f'Digits: {demo.nets[0]} teaches {demo.nets[1]}')
    axis.grid(alpha=0.3)
    axis.legend(loc='lower right')
    figure.tight_layout()
    path = folder / 'curves.png'
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def draw_scenes(demo: Demo, groups: dict[str, list[Run]], folder: Path) -> Path:
    """Draw test images, their truth, and what the first seed's students make of it."""
    alone, cakd = groups['student alone'][0], groups['student + CAKD'][0]
    nets = {
        'student alone': (CONFIGS / alone.config, alone.checkpoint),
        'student + CAKD': (cakd.work_dir / 'student.py', cakd.work_dir / 'student.pth'),
    }
    return draw_predictions(nets, folder / 'predictions.png')


def show(
    demo: Demo, groups: dict[str, list[Run]], summary: dict, console: Console
) -> None:
    """Print the table."""
    table = Table(title=f'{demo.title}, last epoch')
    for column in ('', 'epochs', 'seeds', 'mean %', 'std', 'each seed'):
        table.add_column(column, justify='left' if not column else 'right')
    for name, runs in groups.items():
        scores = [run.score for run in runs]
        spread = f'{stdev(scores):.2f}' if len(scores) > 1 else '-'
        each = '  '.join(f'{score:.2f}' for score in scores)
        count = str(len(scores))
        epochs = str(runs[0].epochs)
        table.add_row(name, epochs, count, f'{mean(scores):.2f}', spread, each)
    console.print(table)
    console.print(
        f'Best CAKD student {summary["cakd_best"]:.2f} %; extracted and scored by '
        f'{demo.project} alone {summary["extracted"]:.2f} %. (Best of the seeds on '
        'the test split: an example to hold in hand, not a result.)'
    )


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--task', choices=[*DEMOS], default='classification')
    parser.add_argument('--work-dir', type=Path, help='work_dirs/demo, or demo-<task>')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=2, help='processes at a time')
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f'--jobs {args.jobs}: it counts processes; write 2, say')
    project = DEMOS[args.task].project
    if find_spec(project) is None:
        command = f"pip install 'cakd_mm[{OPTIONAL[project]}]'"
        parser.error(f'--task {args.task}: it needs {project}; type {command}')
    if args.work_dir is None:
        name = 'demo' if args.task == 'classification' else f'demo-{args.task}'
        args.work_dir = Path('work_dirs') / name
    return args


DEMOS = {
    'classification': Demo(
        project='mmpretrain',
        configs={
            'teacher': 'vanilla/resnet20_digits.py',
            'student alone': 'vanilla/resnet8_digits.py',
            'student + CAKD': 'cakd/demo_digits.py',
        },
        nets=('resnet20', 'resnet8'),
        metric=METRIC,
        full=100.0,
        score='top-1',
        title='Top-1 on the 797 test scans',
        draw=draw_curves,
    ),
    'segmentation': Demo(
        project='mmseg',
        configs={
            'teacher': 'vanilla/fpn-r18w16_scenes-seg.py',
            'student alone': 'vanilla/fpn-r18w8_scenes-seg.py',
            'student + CAKD': 'cakd/demo_scenes-seg.py',
        },
        nets=('FPN, ResNet-18 of width 16', 'FPN, ResNet-18 of width 8'),
        metric='mIoU',
        full=100.0,
        score='mIoU',
        title='mIoU of 11 classes on 300 scenes of test scans',
        draw=draw_scenes,
    ),
    'detection': Demo(
        project='mmdet',
        configs={
            'teacher': 'vanilla/gfl-r18w16_scenes-det.py',
            'student alone': 'vanilla/gfl-r18w8_scenes-det.py',
            'student + CAKD': 'cakd/demo_scenes-det.py',
        },
        nets=('GFL, ResNet-18 of width 16', 'GFL, ResNet-18 of width 8'),
        metric='coco/bbox_mAP',
        full=1.0,
        score='mAP',
        title='mAP of 10 classes on 300 scenes of test scans',
        draw=draw_scenes,
    ),
}


def plan(args: argparse.Namespace) -> dict[str, list[Run]]:
    """Return all runs, grouped by what they are."""
    demo = DEMOS[args.task]
    teacher = Run(
        f'teacher {demo.nets[0]}',
        demo.configs['teacher'],
        args.work_dir / 'teacher',
        0,
        demo,
    )
    groups = {'teacher': [teacher], 'student alone': [], 'student + CAKD': []}
    for seed in args.seeds:
        for group, folder, needed in (
            ('student alone', 'student', None),
            ('student + CAKD', 'cakd', teacher),
        ):
            run = Run(
                f'{group}, seed {seed}',
                demo.configs[group],
                args.work_dir / f'{folder}_seed{seed}',
                seed,
                demo,
                needed,
            )
            groups[group].append(run)
    return groups


def main() -> None:
    """Run the demo."""
    args = parse_args()
    start = time.time()
    demo, groups = DEMOS[args.task], plan(args)
    alone, cakd = groups['student alone'], groups['student + CAKD']
    console = Console()
    runs = [*groups['teacher'], *alone, *cakd]
    written = args.work_dir / 'summary.json'
    if written.is_file():  # The last demo has ended, so this one begins anew.
        written.unlink()
        for run in runs:
            shutil.rmtree(run.work_dir, ignore_errors=True)
    train_all(runs, args.jobs, console)
    best = max(cakd, key=lambda run: run.score)
    student = best.work_dir / 'student.pth'
    summary = dict(
        metric=demo.score,
        teacher=groups['teacher'][0].score,
        student=mean(run.score for run in alone),
        cakd=mean(run.score for run in cakd),
        cakd_best=best.score,
        extracted=score_alone(demo, student, args.work_dir / 'extracted'),
        student_checkpoint=str(student),
    )
    picture = demo.draw(demo, groups, args.work_dir)
    summary['seconds'] = round(time.time() - start, 1)
    write_whole(written, (json.dumps(summary, indent=2) + '\n').encode())
    show(demo, groups, summary, console)
    seconds = summary['seconds']
    console.print(f'{seconds} s; the summary and the students lie beside {picture}')


if __name__ == '__main__':
    start_tool()
    main()
