"""Teacher, plain student and CAKD student on real digit scans, in one command.

Trains everything through ``tools/train.py``, extracts the best CAKD student,
scores it with mmpretrain's own test tool, and writes ``summary.json`` and
``curves.png``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import mmpretrain
from rich.console import Console
from rich.table import Table

from cakd_mm.utils.runs import METRIC, Run
from cakd_mm.utils.scheduling import bars, train_all

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def score_with_mmpretrain(student: Path, work_dir: Path) -> float:
    """Score an extracted student with mmpretrain's own test tool, in percent."""
    tool = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'test.py'
    command = [sys.executable, '-W', 'ignore', str(tool)]
    command += [str(student.with_suffix('.py')), str(student)]
    command += ['--work-dir', str(work_dir), '--out', str(work_dir / 'metrics.json')]
    command += ['--out-item', 'metrics']
    work_dir.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        end = done.stderr[-2000:]
        raise SystemExit(f'mmpretrain could not score {student}:\n{end}')
    return json.loads((work_dir / 'metrics.json').read_text())[METRIC]


def plot(groups: dict[str, list[Run]], path: Path) -> None:
    """Draw top-1 per epoch: each run thin, the mean over seeds thick."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for (name, runs), colour in zip(groups.items(), ('C7', 'C0', 'C3'), strict=True):
        curves = [run.curve(METRIC) for run in runs]
        epochs = [epoch for epoch, _ in curves[0]]
        values = [[value for _, value in curve] for curve in curves]
        for curve in values:
            axis.plot(epochs, curve, color=colour, linewidth=0.7, alpha=0.5)
        average = [mean(column) for column in zip(*values, strict=True)]
        end = f'{average[-1]:.1f} %'
        seeds = f', mean of {len(runs)} seeds' if len(runs) > 1 else ''
        axis.plot(
            epochs, average, color=colour, linewidth=2, label=f'{name}{seeds}: {end}'
        )
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
    return parser.parse_args()


def plan(args: argparse.Namespace) -> dict[str, list[Run]]:
    """Return all runs, grouped by what they are."""
    config = CONFIGS / 'vanilla/resnet20_digits.py'
    options = ['randomness.seed=0']
    teacher = Run('teacher resnet20', config, args.work_dir / 'teacher', options)
    alone, cakd = [], []
    for seed in args.seeds:
        option = f'randomness.seed={seed}'
        folder = args.work_dir / f'student_seed{seed}'
        config = CONFIGS / 'vanilla/resnet8_digits.py'
        alone.append(Run(f'student alone, seed {seed}', config, folder, [option]))
        folder = args.work_dir / f'cakd_seed{seed}'
        config = CONFIGS / 'cakd/demo_digits.py'
        name = f'student + CAKD, seed {seed}'
        cakd.append(Run(name, config, folder, [option], teacher))
    return {'teacher': [teacher], 'student alone': alone, 'student + CAKD': cakd}


def main() -> None:
    """Run the demo."""
    args = parse_args()
    start = time.time()
    groups = plan(args)
    alone, cakd = groups['student alone'], groups['student + CAKD']
    console = Console()
    for run in (*groups['teacher'], *alone, *cakd):
        shutil.rmtree(run.work_dir, ignore_errors=True)
    with bars(console) as progress:
        train_all([*groups['teacher'], *alone, *cakd], args.jobs, progress)
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
    (args.work_dir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    show(groups, summary, console)
    seconds = summary['seconds']
    console.print(f'{seconds} s; summary, curves and students in {args.work_dir}')


if __name__ == '__main__':
    main()
