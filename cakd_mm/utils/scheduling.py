"""Several training processes at a time, on the cores or GPUs there are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

import torch
from rich.progress import Progress

from .errors import describe
from .provenance import cores
from .runs import Run

# Small nets leave most of a GPU idle. A guess: more do not fit the cores beside it.
RUNS_A_GPU = 4
POLL = 0.5  # seconds


def slots(jobs: int | str = 'auto') -> list[dict[str, str]]:
    """Return the environment of each process that may run beside the others.

    Args:
        jobs (int | str): How many; ``'auto'`` is one a core without a GPU, and up to
            four on each GPU, as many as there are cores for. Defaults to ``'auto'``.

    Raises:
        ValueError: ``jobs`` is neither.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if jobs == 'auto':
        jobs = max(1, min(cores(), gpus * RUNS_A_GPU) if gpus else cores())
    if not (isinstance(jobs, int) and jobs > 0):
        problem = 'It counts processes.'
        raise ValueError(describe('--jobs', jobs, problem, "Write 2, say, or 'auto'."))
    share = dict(OMP_NUM_THREADS=str(max(1, cores() // jobs)))
    if not gpus:
        return [share] * jobs
    return [dict(share, CUDA_VISIBLE_DEVICES=str(i % gpus)) for i in range(jobs)]


@dataclass
class Outcome:
    """What came of a plan: those that failed, and whether time ran out."""

    failed: dict[str, str] = field(default_factory=dict)  # name of a run: the reason
    out_of_time: bool = False


class Schedule:
    """Trains what is not finished, ``len(slots)`` at a time, teachers first.

    Args:
        runs (Sequence[Run]): In the order of their turn; a teacher anywhere.
        slots (list[dict]): The environment of each process, see :func:`slots`.
        progress (Progress): Gets a bar for each process, and one for all.
        deadline (float, optional): Stop at this ``time.monotonic()``; what runs goes
            on from its newest checkpoint in the next call. Defaults to None.

    Raises:
        ValueError: a work dir holds a run with other settings.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        slots: list[dict[str, str]],
        progress: Progress,
        deadline: float | None = None,
    ) -> None:
        self.runs, self.progress, self.deadline = list(runs), progress, deadline
        for run in self.runs:
            run.check()
        self.free = list(slots)
        self.jobs = len(slots)
        self.running: list[tuple[Run, dict[str, str]]] = []
        self.outcome = Outcome()
        self.bars = {}
        total = sum(run.epochs for run in self.runs)
        self.bar = progress.add_task('all', total=total)

    def run(self) -> Outcome:
        """Train; a run that fails leaves the others alone."""
        waiting = [run for run in self.runs if not run.finished]
        try:
            while waiting or self.running:
                if self.deadline and time.monotonic() > self.deadline:
                    self.outcome.out_of_time = True
                    break
                waiting = self._start(waiting)
                time.sleep(POLL)
                self._look()
                self._show()
        finally:
            for run, _ in self.running:
                run.process.kill()
            for run, _ in self.running:
                run.process.wait()
        return self.outcome

    def _start(self, waiting: list[Run]) -> list[Run]:
        """Start what has its teacher; return what still waits."""
        left = []
        for run in waiting:
            teacher = run.teacher
            if teacher is not None and teacher.name in self.outcome.failed:
                self._fail(run, f'not run, because {teacher.name} failed')
            elif not self.free or not (teacher is None or teacher.finished):
                left.append(run)
            elif run.start(self.free[0]):
                self.running.append((run, self.free.pop(0)))
                self.bars[run.name] = self.progress.add_task(run.name, total=run.epochs)
            else:  # another process is at it
                left.append(run)
        return left

    def _look(self) -> None:
        """See which have ended."""
        for run, slot in list(self.running):
            code = run.process.poll()
            if code is None:
                continue
            self.running.remove((run, slot))
            self.free.append(slot)
            self.progress.remove_task(self.bars.pop(run.name))
            if code:
                self._fail(run, _reason(run, code))
                continue
            run.write_result()
            self.progress.console.print(f'{run.name}: {run.top1:.2f} %')

    def _fail(self, run: Run, reason: str) -> None:
        self.outcome.failed[run.name] = reason
        self.progress.console.print(f'{run.name} FAILED: {reason}', style='red')

    def _show(self) -> None:
        for run, _ in self.running:
            self.progress.update(self.bars[run.name], completed=run.epoch)
        self.progress.update(
            self.bar, completed=self.done(), description=f'all{self.time_left()}'
        )

    def done(self) -> int:
        """Return how many epochs lie behind, those of finished runs included."""
        ended = sum(run.epochs for run in self.runs if run.finished)
        return ended + sum(run.epoch for run, _ in self.running)

    def time_left(self) -> str:
        """Return the time left in words, if anything has finished to tell it by."""
        paces = [r.result['seconds'] / r.epochs for r in self.runs if r.finished]
        if not paces:
            return ''
        failed = sum(r.epochs for r in self.runs if r.name in self.outcome.failed)
        left = sum(run.epochs for run in self.runs) - self.done() - failed
        return f', {left * mean(paces) / self.jobs / 60:.0f} min left'


def _reason(run: Run, code: int) -> str:
    """Return how a process ended, and the last line it printed."""
    lines = [x for x in run.log.read_text().splitlines() if x.strip()]
    end = lines[-1].strip() if lines else 'nothing printed'
    how = f'killed by signal {-code}' if code < 0 else f'exit status {code}'
    return f'{how}: {end} ({run.log})'


def train_all(runs: Sequence[Run], jobs: int, progress: Progress) -> None:
    """Train those runs that are not finished, ``jobs`` at a time.

    Raises:
        SystemExit: a run failed; its log's end is printed.
    """
    failed = Schedule(runs, slots(jobs), progress).run().failed
    if failed:
        logs = {run.name: run.log for run in runs}
        for name in failed:
            end = logs[name].read_text().splitlines(keepends=True)[-15:]
            progress.console.print(''.join(end), markup=False)
        raise SystemExit('\n'.join(f'{k} failed: {v}' for k, v in failed.items()))
