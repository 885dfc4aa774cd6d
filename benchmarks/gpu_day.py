"""What only a GPU can tell, in pieces of under six minutes, the most valuable first.

Each piece is a process of its own with a time limit. What it says is in
``gpu_day.json`` as soon as it has ended, and on the page ``gpu_day.md``. A second call
goes on with the pieces that have not been tried, and then tries again those that have
failed.

    tools/gpu_day.sh [OUT] [--minutes 13] [--dry-run]
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from common import ROOT, environment

from cakd_mm.utils.errors import describe
from cakd_mm.utils.machine import end_with
from cakd_mm.utils.whole_file import write_whole

LIMIT = 350.0  # seconds of a piece
KEPT = 12_000  # last characters of what a piece has said
DONE, FAILED, CUT, SKIPPED = 'done', 'failed', 'out of time', 'skipped'
TESTED = re.compile(r'^(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b', re.MULTILINE)
# Tests that compile take most of the time.
COMPILING = 'compiled or fast or runner or learns'


@dataclass(frozen=True)
class Piece:
    """One question, and the script that answers it.

    Args:
        name (str): What the json calls it.
        question (str): Its heading on the page.
        command (tuple[str]): Words after ``python``.
        minutes (float): How long it is expected to take: a guess until it has run.
        quick (tuple[str], optional): The command of a dry run, on a CPU. Defaults to
            None: a dry run skips the piece.
    """

    name: str
    question: str
    command: tuple[str, ...]
    minutes: float
    quick: tuple[str, ...] | None = None


def _tests(chosen: str) -> tuple[str, ...]:
    options = ('-v', '--tb=short', '--color=no', '-p', 'no:cacheprovider')
    return ('-m', 'pytest', *options, 'tests/test_gpu.py', '-k', chosen)


def _benchmark(
    name: str, question: str, script: str, minutes: float, *words: str
) -> Piece:
    path = f'benchmarks/{script}.py'
    quick = (path, '--quick', '--threads', '1')
    if script == 'end_to_end':
        quick += ('--variants', 'ours, resident data')
    return Piece(name, question, (path, *words), minutes, quick)


def _speed(pair: str, batch_size: int, title: str) -> Piece:
    variants = ('ours, no option', '+ fast student: lossless', 'all bf16, CUDA graphs')
    return _benchmark(
        f'speed_{pair}_{batch_size}',
        f'Images a second against mmrazor: {title}, batch {batch_size}',
        'end_to_end',
        4,
        *('--pair', pair, '--batch-sizes', str(batch_size), '--rounds', '7'),
        *('--variants', *variants),
    )


PIECES = (
    Piece(
        'tests',
        'tests/test_gpu.py: values, and steps that wait',
        _tests(f'not nan and not ({COMPILING})'),
        2,
    ),
    Piece('tests_compiled', 'tests/test_gpu.py: what compiles', _tests(COMPILING), 5),
    _benchmark('tf32', 'What TF32 does to nets', 'tf32', 4),
    Piece(
        'nan_guard',
        'tests/test_gpu.py: a nan on the device stops the run, and nothing is saved',
        _tests('nan'),
        0.7,
    ),
    _benchmark('repeated', 'One seed twice, and resumed', 'repeated', 1.5),
    _speed('r56_r20', 128, 'resnet56 to resnet20'),
    _speed('r56_r20', 1024, 'resnet56 to resnet20'),
    _speed('r34_r18', 128, 'resnet34 to resnet18 at 224 pixels'),
    _benchmark('waits', 'Waits and launches of a step', 'waits', 3),
    _benchmark(
        'pair_hours', "Table II's first pair: hours", 'pair_hours', 5, '--rounds', '5'
    ),
)


def run_process(words: Iterable[str], log: Path, seconds: float) -> int | None:
    """Run a Python command in the repository's root.

    Args:
        words: After ``python``.
        log (Path): Gets what it says.
        seconds (float): After these it is killed, with all processes that it started.

    Returns:
        int: Its exit status; None if it was killed.
    """
    folders = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    with log.open('wb') as file:
        process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', *words],
            cwd=ROOT,
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join(folders),
                'PYTHONUNBUFFERED': '1',
            },
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(end_with, os.getpid()),
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def answer(piece: Piece, dry_run: bool, seconds: float) -> dict:
    """Run a piece and return what came of it, for the json."""
    command = piece.quick if dry_run else piece.command
    if command is None:
        why = 'It needs a card. `make test` runs the logic of these tests on the CPU.'
        return dict(state=SKIPPED, error=why)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / 'log'
        words = command if '-m' in command else (*command, '--out', folder)
        status = run_process(words, log, seconds)
        said = log.read_text(encoding='utf-8', errors='replace')
        # A piece that is killed has written what it had by then.
        results = {
            file.stem: json.loads(file.read_text(encoding='utf-8'))
            for file in sorted(Path(folder).glob('*.json'))
        }
    found: dict = dict(
        state={0: DONE, None: CUT}.get(status, FAILED),
        seconds=round(time.monotonic() - start, 1),
        command=' '.join(command),
        results=results,
        said=said[-KEPT:],
    )
    tests = dict(TESTED.findall(said))
    if tests:
        found['tests'] = dict(Counter(tests.values()))
        found['not_passed'] = [name for name, end in tests.items() if end != 'PASSED']
    if status is None:
        found['error'] = f'It was killed after {seconds:.0f} seconds.'
    elif status:
        lines = [line for line in said.splitlines() if line.strip()]
        found['error'] = lines[-1] if lines else f'It ended with status {status}.'
    return found


def page(content: dict) -> str:
    """Return the page of all pieces, in Markdown."""
    about = content['environment']
    lines = ['# What a GPU says', '']
    if content['dry_run']:
        lines += ['**A dry run on a CPU: no number here says anything of a GPU.**', '']
    lines += [f'{key}: {value}  ' for key, value in about.items()]
    lines += ['', '| piece | state | seconds | tests | commit |', '| --- ' * 5 + '|']
    tried = content['pieces']
    for piece in PIECES:
        found = tried.get(piece.name, dict(state='not tried'))
        tests = [f'{n} {end.lower()}' for end, n in found.get('tests', {}).items()]
        cells = [piece.question, found['state'], found.get('seconds', '')]
        cells += [', '.join(tests), found.get('commit', '')]
        lines.append(f'| {" | ".join(map(str, cells))} |')
    for piece in PIECES:
        found = tried.get(piece.name)
        if found is None:
            continue
        lines += ['', f'## {piece.question}', '']
        if 'error' in found:
            lines += [f'{found["state"]}: {found["error"]}', '']
        if 'said' in found:
            lines += [f'`python {found["command"]}`', '', '```', found['said'], '```']
    return '\n'.join(lines) + '\n'


class Day:
    """What is known so far, in a folder.

    Args:
        folder (Path): Gets ``gpu_day.json`` and ``gpu_day.md``.
        dry_run (bool): Whether all runs on a CPU in its smallest size.

    Raises:
        ValueError: the folder cannot be written, or holds what another machine or a
            dry run has found.
    """

    def __init__(self, folder: Path, dry_run: bool) -> None:
        self.folder, self.dry_run = folder, dry_run
        self._file = folder / 'gpu_day.json'
        self.pieces: dict[str, dict] = {}
        self._environment = environment()
        if dry_run:
            self._environment['gpu'] = None  # which it hides from its pieces
        try:  # before the first piece, whose answer would be lost
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f'No folder can be made there: {error.strerror}.'
            text = describe('OUT', str(folder), problem, 'Name another one.')
            raise ValueError(text) from None
        if not self._file.exists():
            return
        try:
            known = json.loads(self._file.read_text(encoding='utf-8'))
            before = known['environment']['gpu'], known['dry_run']
        except (ValueError, KeyError, TypeError):
            problem = f'Its {self._file.name} is none that this command has written.'
            remedy = 'Name another folder, or remove that file.'
            raise ValueError(describe('OUT', str(folder), problem, remedy)) from None
        if before != (self._environment['gpu'], dry_run):
            problem = f'It holds what {before[0] or "a dry run"} has said.'
            remedy = 'Name another folder, or remove this one.'
            raise ValueError(describe('OUT', str(folder), problem, remedy))
        self.pieces = known['pieces']

    def todo(self) -> list[Piece]:
        """Return the pieces that are not done: what has been tried comes last."""
        left = [
            piece
            for piece in PIECES
            if self.pieces.get(piece.name, {}).get('state') not in (DONE, SKIPPED)
        ]
        return sorted(left, key=lambda piece: piece.name in self.pieces)

    def write(self) -> None:
        """Write the json and the page, each whole or not at all."""
        content = dict(
            environment=self._environment, dry_run=self.dry_run, pieces=self.pieces
        )
        text = json.dumps(content, indent=1) + '\n'
        write_whole(self._file, text.encode())
        write_whole(self.folder / 'gpu_day.md', page(content).encode())

    def go_on(self, minutes: float | None) -> None:
        """Run what is left, and start nothing that would not be done in time."""
        end = None if minutes is None else time.monotonic() + 60 * minutes
        for piece in self.todo():
            left = LIMIT if end is None else min(LIMIT, end - time.monotonic())
            wanted = 0 if self.dry_run else min(60 * piece.minutes, LIMIT)
            if left <= 0 or left < wanted:
                seconds = max(left, 0)
                print(f'{piece.name}: not started, {seconds:.0f} seconds are left')
                continue
            print(f'{piece.name}: {piece.question}', flush=True)
            found = answer(piece, self.dry_run, left)
            found['commit'] = self._environment['commit']
            self.pieces[piece.name] = found
            self.write()
            said = found.get('error', found.get('tests', ''))
            print(f'  {found["state"]} {found.get("seconds", "")} {said}', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    place = ROOT / 'work_dirs' / 'gpu_day'
    parser.add_argument('out', nargs='?', type=Path, help=f'folder, {place} by default')
    parser.add_argument('--minutes', type=float, help='start nothing that takes longer')
    parser.add_argument('--dry-run', action='store_true', help='smallest sizes, a CPU')
    args = parser.parse_args()
    if args.dry_run:
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
        place = place.with_name('gpu_day_dry_run')
    elif not torch.cuda.is_available():
        problem, remedy = 'This machine has no CUDA GPU.', 'Add --dry-run.'
        parser.error(describe('--dry-run', False, problem, remedy))
    try:
        day = Day((args.out or place).resolve(), args.dry_run)
    except ValueError as error:
        parser.error(str(error))
    day.go_on(args.minutes)
    states = Counter(found['state'] for found in day.pieces.values())
    print(f'{dict(states)}; the page is {day.folder / "gpu_day.md"}')
    if states[FAILED] or states[CUT]:
        sys.exit(1)


if __name__ == '__main__':
    main()
