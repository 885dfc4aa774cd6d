"""Several training processes at a time, on the cores or GPUs there are."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import mean

import torch
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cakd_mm.utils.errors import describe
from cakd_mm.utils.machine import cores

from .runs import THREADS, Run, end_of

# Small nets leave most of a GPU idle. The number is a guess, because the cores beside
# the GPU limit it as well.
RUNS_A_GPU = 4
POLL = 0.5  # seconds
EVERY = 300  # seconds between two lines where no bar can be shown


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
    share = {THREADS: str(max(1, cores() // jobs))}
    if not gpus:
        return [share] * jobs
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = visible.split(',')[:gpus] if visible else [str(i) for i in range(gpus)]
    return [dict(share, CUDA_VISIBLE_DEVICES=names[i % gpus]) for i in range(jobs)]


@dataclass
class Outcome:
    """What came of a plan: those that failed, and whether time ran out."""

    failed: dict[str, str] = field(default_factory=dict)  # reason by a run's name
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
        for run in self.runs:
            run.note_failure(None)  # It is tried again.
        self.free = list(slots)
        self.jobs = len(slots)
        self.running: list[tuple[Run, dict[str, str]]] = []
        self.outcome = Outcome()
        self.bars: dict[str, TaskID] = {}  # by name
        self.began: dict[str, tuple[float, int]] = {}  # by name: when, at which epoch
        self.waited_for: set[str] = set()
        self.total = sum(map(_to_train, self.runs))
        self.bar = progress.add_task('all', total=self.total)
        self.printed_at = time.monotonic()

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
                self._collect_ended()
                self._update_bars()
        finally:
            processes = [run.process for run, _ in self.running if run.process]
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()
        return self.outcome

    def _start(self, waiting: list[Run]) -> list[Run]:
        """Start the runs whose teacher is finished; return those that still wait."""
        left = []
        for run in waiting:
            teacher = run.teacher
            if run.finished:  # Another process has finished it meanwhile.
                continue
            if teacher is not None and teacher.name in self.outcome.failed:
                self._fail(run, f'not run, because {teacher.name} failed')
            elif not self.free or not (teacher is None or teacher.finished):
                left.append(run)
            elif (started := self._try_to_start(run)) is None:
                continue
            elif started:
                self.running.append((run, self.free.pop(0)))
                total = _to_train(run)
                self.bars[run.name] = self.progress.add_task(run.name, total=total)
                self.began[run.name] = time.monotonic(), run.epoch
            else:
                left.append(run)
                if run.name not in self.waited_for and not run.finished:
                    self.waited_for.add(run.name)
                    self._print(f'{run.name}: another process is at it; waiting')
        return left

    def _try_to_start(self, run: Run) -> bool | None:
        """Start a run; None if that is impossible, so that the others go on."""
        try:
            return run.start(self.free[0])
        except (OSError, ValueError) as error:
            self._fail(run, str(error))
            return None

    def _collect_ended(self) -> None:
        """Write down the result of each process that has ended."""
        for run, slot in list(self.running):
            code = run.process.poll() if run.process else None
            if code is None:
                continue
            self.running.remove((run, slot))
            self.free.append(slot)
            self.progress.remove_task(self.bars.pop(run.name))
            if code:
                self._fail(run, _reason(run, code))
                continue
            try:
                run.write_result()
            except Exception as error:  # Whatever it is, the other runs go on.
                self._fail(run, f'it ended, but left no result: {error!r}')
            else:
                self._print(f'{run.name}: {run.top1:.2f} %')

    def _fail(self, run: Run, reason: str) -> None:
        self.outcome.failed[run.name] = reason
        with suppress(OSError):  # A full disk; the reason is printed all the same.
            run.note_failure(reason)
        self._print(f'{run.name} FAILED: {reason}')

    def _print(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False)

    def _update_bars(self) -> None:
        """Show the epochs; without a terminal in a line every few minutes."""
        for run, _ in self.running:
            self.progress.update(self.bars[run.name], completed=run.epoch)
        done, left = self.done(), self.time_left()
        self.progress.update(self.bar, completed=done, description=f'all{left}')
        # Without a terminal no bar is shown before the end.
        quiet = not self.progress.console.is_terminal
        if quiet and time.monotonic() - self.printed_at > EVERY:
            self.printed_at = time.monotonic()
            self._print(f'{done} of {self.total} epochs{left}')

    def done(self) -> int:
        """Return how many epochs lie behind, of whatever has been started."""
        return sum(
            _to_train(run) if run.finished else min(run.epoch, _to_train(run))
            for run in self.runs
        )

    def time_left(self) -> str:
        """Return the time left in words, as soon as an epoch tells the pace."""
        paces = [
            run.result['seconds'] / run.epochs
            for run in self.runs
            if run.finished and _to_train(run)
        ]
        for run, _ in self.running:
            start, first = self.began[run.name]
            if run.epoch > first:
                paces.append((time.monotonic() - start) / (run.epoch - first))
        if not paces:
            return ''
        failed = [r for r in self.runs if r.name in self.outcome.failed]
        left = self.total - self.done() - sum(r.epochs - r.epoch for r in failed)
        return f', {left * mean(paces) / self.jobs / 60:.0f} min left'


def _to_train(run: Run) -> int:
    """Return a run's epochs; none of a checkpoint that is only scored."""
    return 0 if run.checkpoint else run.epochs


def _reason(run: Run, code: int) -> str:
    """Return how a process ended, and the last line it printed."""
    printed = [line for line in end_of(run.log).splitlines() if line.strip()]
    end = printed[-1].strip() if printed else 'nothing printed'
    how = f'killed by signal {-code}' if code < 0 else f'exit status {code}'
    return f'{how}: {end} ({run.log})'


def bars() -> Progress:
    """Return the progress that a table shows: a bar for each run, in epochs."""
    return Progress(
        TextColumn('{task.description:<42}'),
        BarColumn(),
        TextColumn('{task.completed}/{task.total} epochs'),
        TimeElapsedColumn(),
    )
