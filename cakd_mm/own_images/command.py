"""What ``tools/distill.py`` does, from a folder of images to a student."""

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..utils.errors import describe
from ..utils.tools import tool
from ..utils.whole_file import write_whole
from ..visualization.history import METRIC
from ..visualization.report.report import MOST_IMAGES, report
from ..visualization.sweep import draw_sweep, read_sweep, sweep_table
from .make_folder import make_folder
from .options import Options
from .part import Part, run_tool
from .result_folder import ResultFolder


@dataclass(frozen=True)
class Run:
    """What a start of the command may do otherwise than the one before.

    Args:
        with_alone (bool): Whether the student is trained without its teacher too.
            Defaults to False.
        gpus (int): On how many GPUs, or in how many processes, each net is trained.
            Defaults to 1.
        configs_only (bool): Whether nothing is trained. Defaults to False.
        arguments (list[str]): More arguments of ``tools/train.py``. Defaults to [].
    """

    with_alone: bool = False
    gpus: int = 1
    configs_only: bool = False
    arguments: list[str] = field(default_factory=list)


def distill(options: Options, out: Path, run: Run) -> None:
    """Train a teacher, if there is none, and a student with it; compare and tell.

    What is finished is not done again, and a training that was stopped goes on.

    Args:
        options (Options): What is asked for.
        out (Path): The folder of results.
        run (Run): How it is done this time.

    Raises:
        FileNotFoundError, OSError, ValueError: what was asked for cannot be done;
            naming the option or the file.
        SystemExit: a training failed.
    """
    _require_passable(run.arguments)
    out = out.expanduser().resolve()
    folder = ResultFolder.open(out, options)
    if folder is None:
        folder = make_folder(out, options)
        print(f'Configs and lists of images: {out}')
    else:
        print(f'Going on in {out}')
        folder.require_images()
    if run.configs_only:
        print('Change what you like. The same command without --configs-only trains.')
        return
    there = torch.cuda.device_count()
    if there > run.gpus:
        print(f'This machine has {there} GPUs: --gpus {there} trains on all of them.')
    student = Part('student', out / 'student.py', run.arguments, run.gpus)
    teacher = Part('teacher', out / 'teacher.py', run.arguments, run.gpus)
    model = student.cfg.model
    student.teacher_ckpt = model.teacher_ckpt
    trained = [student]
    if run.with_alone:
        trained.append(Part('alone', out / 'alone.py', run.arguments, run.gpus))
    others = trained[1:] if 'teacher_from' not in model else [teacher, *trained[1:]]
    if others:
        _require_for_all(run.arguments, student, others[0])
    if 'teacher_from' in model:
        _train(folder, teacher)
    elif model.get('teacher_classes') is None:
        _score(folder, teacher, model.teacher_ckpt)
    for part in trained:
        _train(folder, part)
    _compare(out, [part.work_dir for part in trained])
    _tell(folder, student)


# What this command says to training, and how a person says it.
OWN = {
    '--work-dir': '--out DIR',
    'work_dir': '--out DIR',
    '--resume': 'the same command again',
    'train_cfg.max_epochs': '--epochs N',
}


def _require_passable(arguments: list[str]) -> None:
    """Refuse arguments for training that are said in another way here."""
    for word in arguments:
        name = word.partition('=')[0]
        if name in OWN:
            problem = 'It cannot be given to training from here.'
            remedy = f'Leave it out, and write {OWN[name]}.'
            raise ValueError(describe(name, word, problem, remedy))


def _require_for_all(arguments: list[str], student: Part, other: Part) -> None:
    """Refuse settings of a model where more than one is trained."""
    for word in arguments:
        name, _, value = word.partition('=')
        if name.startswith('model.'):
            problem = f'{other.name}.py would be trained with it too, and has '
            problem += 'another model than student.py.'
            remedy = f'Leave it out, and write it into {student.config}.'
            raise ValueError(describe(name, value, problem, remedy))


def _train(folder: ResultFolder, part: Part) -> None:
    """Train a part to its end, unless it is there."""
    folder.require_settings(part)
    known = folder.parts.get(part.name, {})
    if 'top1' in known and part.work_dir.is_dir():
        print(f'{part.name} is finished: {part.work_dir}')
        return
    folder.parts[part.name] = dict(settings=part.settings)
    folder.save()
    print(f'\nTraining {part.name}: {part.work_dir}', flush=True)
    part.train()
    scores = part.scores
    folder.parts[part.name]['top1'] = scores[max(scores)] if scores else None
    folder.save()


def _score(folder: ResultFolder, teacher: Part, checkpoint: str) -> None:
    """Score a teacher that was given."""
    if 'top1' in folder.parts.get(teacher.name, {}):
        return
    print(f'\nScoring the teacher, {checkpoint}', flush=True)
    command = [sys.executable, '-W', 'ignore', str(tool('test.py'))]
    run_tool('The test of the teacher', [*command, str(teacher.config), checkpoint])
    newest = max(teacher.work_dir.glob('*/*.json'), key=lambda x: x.stat().st_mtime)
    metrics = json.loads(newest.read_text(encoding='utf-8'))
    folder.parts[teacher.name] = dict(top1=metrics.get(METRIC))
    folder.save()


def _compare(out: Path, work_dirs: list[Path]) -> None:
    """Draw the curves, and write what differs and the page to look at."""
    write_whole(out / 'report.html', report(work_dirs, MOST_IMAGES, print))
    sweep = read_sweep(work_dirs)
    draw_sweep(sweep).savefig(out / 'sweep.png', dpi=110)
    (out / 'sweep.md').write_text(sweep_table(sweep), encoding='utf-8')


ROWS = {
    'teacher': 'teacher.py',
    'alone': 'alone.py, the student without a teacher',
    'student': 'student.py, the same student with its teacher',
}


def _tell(folder: ResultFolder, student: Part) -> None:
    """Print the scores, where everything lies, and what to type next."""
    out, weights = folder.path, student.work_dir / 'student.pth'
    print(f'\nTop-1 on {folder.scored_images()} images for validation, last epoch:')
    for name, title in ROWS.items():
        top1 = folder.parts.get(name, {}).get('top1')
        if top1 is not None:
            print(f'  {top1:6.2f} %  {title}')
    print(f'  {folder.largest_class():6.2f} %  calling every image the same class')
    scores = {name: part.get('top1') for name, part in folder.parts.items()}
    alone, taught = scores.get('alone'), scores.get('student')
    if alone is not None and taught is not None and taught < alone:
        print('The teacher did not help here. Try more epochs, a better teacher,')
        print('--method kd, or lower numbers of the loss in student.py.')
    print('One seed says little about a small difference.')
    lies = {
        weights: 'the student, a plain net; its config beside it',
        out / 'report.html': 'for a browser: curves, terms, images right and wrong',
        out / 'sweep.png': 'the curves; sweep.md: the scores and what differs',
        out / 'data.py': 'the images; schedule.py, student.py, ...: what was trained',
    }
    print('\nWhere it lies:')
    for path, what in lies.items():
        print(f'  {path}\n      {what}')
    seed = int(folder.options['seed']) + 1
    config, place = student.config, student.work_dir
    again = [
        '--work-dir',
        f'{place}_{seed}',
        '--cfg-options',
        f'randomness.seed={seed}',
    ]
    commands = [
        ['test', str(config), str(student.checkpoint)],
        ['train', str(config), *again],
        ['report', str(out), '--out', str(out)],
        ['export', str(weights.with_suffix('.py')), str(weights), '--normalize'],
    ]
    print('\nWhat to type next:')
    for command in commands:
        print(f'  cakd-mm {shlex.join(command)}')
    print('\nTo use the student, in Python:')
    print('  from mmpretrain import ImageClassificationInferencer')
    files = str(weights.with_suffix('.py')), str(weights)
    print(f'  classify = ImageClassificationInferencer{files!r}')
    print("  classify('image.jpg')[0]['pred_class']")
