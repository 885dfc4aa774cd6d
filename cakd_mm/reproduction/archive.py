"""What finished runs leave, kept where another machine can go on from it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import describe
from ..utils.runs import Run, hash_of, write_whole


def restore(runs: Sequence[Run], work_dir: Path, archive: Path) -> int:
    """Fill a work dir with what it lacks of the finished runs of an archive.

    Args:
        runs (Sequence[Run]): The planned ones, teachers first.
        work_dir (Path): Where they are.
        archive (Path): Where :func:`store` has put them.

    Returns:
        int: How many were taken.

    Raises:
        ValueError: a run there has other settings or another teacher, or a teacher's
            checkpoint is not the one it was written down with.
    """
    taken = 0
    for run in runs:
        kept = archive / run.work_dir.relative_to(work_dir)
        if run.checkpoint or run.finished or not (kept / 'result.json').is_file():
            continue
        result = json.loads((kept / 'result.json').read_text())
        run.check(result['starts'])
        run.work_dir.mkdir(parents=True, exist_ok=True)
        checkpoint = kept / run.last_checkpoint.name
        if checkpoint.is_file():
            if hash_of(checkpoint) != result['checkpoint_sha256']:
                problem = f'{checkpoint} is not the checkpoint that was kept.'
                remedy = 'Take that folder from version control again, or delete it.'
                raise ValueError(describe('--archive', str(archive), problem, remedy))
            shutil.copyfile(checkpoint, run.last_checkpoint)
        write_whole(run.work_dir / 'starts.json', dict(starts=result['starts']))
        write_whole(run.work_dir / 'result.json', result)  # finished from now on
        taken += 1
    return taken


def store(runs: Sequence[Run], work_dir: Path, archive: Path) -> None:
    """Keep the results of finished runs, and the checkpoints of teachers.

    A page can be written from it and a table continued, on any machine; a student's
    weights are not kept.

    Args:
        runs (Sequence[Run]): The planned ones.
        work_dir (Path): Where they are.
        archive (Path): Where to put it, in folders named as in the work dir.
    """
    teachers = {run.teacher.work_dir for run in runs if run.teacher}
    for run in runs:
        if run.checkpoint or not run.finished:
            continue
        kept = archive / run.work_dir.relative_to(work_dir)
        kept.mkdir(parents=True, exist_ok=True)
        if run.work_dir in teachers:
            shutil.copyfile(run.last_checkpoint, kept / run.last_checkpoint.name)
        write_whole(kept / 'result.json', run.result)
