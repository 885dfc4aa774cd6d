"""Keeps what finished runs leave, so that another machine can go on from it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from cakd_mm.utils.checkpoint import hash_of
from cakd_mm.utils.errors import describe
from cakd_mm.utils.whole_file import whole_file

from .records import RESULT, read_record
from .runs import RESULT_FILE, STARTS_FILE, Run, write_json


def restore(runs: Sequence[Run], work_dir: Path, archive: Path) -> int:
    """Fill a work dir with what it lacks of the finished runs of an archive.

    A run whose teacher is not finished is left out, and so is a teacher whose
    checkpoint is not there.

    Args:
        runs (Sequence[Run]): The planned ones, teachers first.
        work_dir (Path): Where they are.
        archive (Path): Where :func:`store` has put them.

    Returns:
        int: How many runs were taken.

    Raises:
        ValueError: a run there has other settings or another teacher, another result
            of it is here, or a checkpoint is not the one it was written down with.
    """
    teachers, taken = _teachers(runs), 0
    for run in runs:
        folder = archive / run.work_dir.relative_to(work_dir)
        untaught = run.teacher is not None and run.teacher.sha256 is None
        result = read_record(folder / RESULT_FILE, RESULT)
        if run.checkpoint or untaught or not result:
            continue
        if run.finished:
            _check_same(result, run, folder, archive)
            continue
        try:
            run.check(result['starts'])
        except ValueError as error:
            _refuse(archive, f'{folder} does not fit this table ({error})')
        checkpoint = folder / run.last_checkpoint.name
        if checkpoint.is_file():
            if hash_of(checkpoint) != result['checkpoint_sha256']:
                _refuse(archive, f'{checkpoint} is not the checkpoint that was kept.')
            run.work_dir.mkdir(parents=True, exist_ok=True)
            _copy(checkpoint, run.last_checkpoint)
        elif run.work_dir in teachers:
            continue
        run.work_dir.mkdir(parents=True, exist_ok=True)
        write_json(run.work_dir / STARTS_FILE, dict(starts=result['starts']))
        write_json(run.work_dir / RESULT_FILE, result)  # From now on it is finished.
        taken += 1
    return taken


def store(runs: Sequence[Run], work_dir: Path, archive: Path) -> None:
    """Keep the results of finished runs, and the checkpoints of teachers.

    From the archive a page can be written and a table continued, on any machine. The
    weights of students are not kept. What is there already stays, unless it is damaged.

    Args:
        runs (Sequence[Run]): The planned ones.
        work_dir (Path): Where they are.
        archive (Path): Where to put it, in folders named as in the work dir.

    Raises:
        ValueError: another result of a run is there, or a teacher's checkpoint is not
            the one that it has left.
    """
    teachers = _teachers(runs)
    for run in runs:
        if run.checkpoint or not run.finished:
            continue
        folder = archive / run.work_dir.relative_to(work_dir)
        kept = read_record(folder / RESULT_FILE, RESULT)
        if kept:
            _check_same(kept, run, folder, archive)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / run.last_checkpoint.name
        if run.work_dir in teachers and not checkpoint.is_file():
            run.check_checkpoint()
            _copy(run.last_checkpoint, checkpoint)
        if not kept:
            write_json(folder / RESULT_FILE, run.result)


def _teachers(runs: Sequence[Run]) -> set[Path]:
    return {run.teacher.work_dir for run in runs if run.teacher}


def _check_same(result: dict, run: Run, folder: Path, archive: Path) -> None:
    if result['checkpoint_sha256'] != run.sha256:
        _refuse(archive, f'{folder} holds another run than {run.work_dir}.')


def _copy(source: Path, target: Path) -> None:
    """Copy a file that others see whole or not at all."""
    with source.open('rb') as content, whole_file(target) as file:
        shutil.copyfileobj(content, file)


def _refuse(archive: Path, problem: str) -> None:
    remedy = 'Give another --archive, or take that folder out of it.'
    raise ValueError(describe('--archive', str(archive), problem, remedy))
