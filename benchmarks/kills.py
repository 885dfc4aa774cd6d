"""Kills training and a table at random moments, and compares what comes of it.

Each time the run is started again with ``--resume`` (a table as it was) until it ends.
Its weights and logged scalars, or the table's json, then have to equal those of an
undisturbed run in every bit. Half of the kills hit anywhere; the other half, of a
training run, exactly when a file is opened, synced or renamed.
"""

import argparse
import builtins
import json
import math
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import cv2
import torch
from mmpretrain import get_model
from sklearn.datasets import load_digits
from yapf.yapflib import yapf_api

import cakd_mm  # noqa: F401  (here, so that no run has to wait for the import)
from cakd_mm.utils.checkpoint import read_checkpoint
from cakd_mm.visualization.history import logged_lines

ROOT = Path(__file__).resolve().parents[1]
TOOLS, CONFIGS = ROOT / 'tools', ROOT / 'configs'
EPOCHS = 3
CLASSES = 10
# Files with the number of writes, and with the one at which a process killed itself.
COUNT, DIED_AT = 'writes', 'died_at'
WORK_DIR = 'work_dir'
TABLE = ['--table', 'digits', '--methods', 'CAKD logit', '--epochs', '2']
TABLE += ['--seeds', '1', '--jobs', '2', '--out', 'results']
# What differs between any two runs: times, and the hash of a file that holds times.
CLOCKS = ('time', 'data_time', 'memory', 'minutes', 'hours', 'sha256')
CONFIG = """
_base_ = {base!r}
model = dict(teacher_ckpt={teacher!r})
train_cfg = dict(max_epochs={epochs}, resident=True)
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
crop = dict(type='RandomCrop', crop_size=16, padding=2)
data = dict(_delete_=True, type='CustomDataset', data_root={data!r})
loader = dict(batch_size=32, num_workers=0, persistent_workers=False)
train_dataloader = dict(**loader, dataset=dict(**data, pipeline=[load, crop, pack]))
val_dataloader = dict(**loader, dataset=dict(**data, pipeline=[load, pack]))
test_dataloader = val_dataloader
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(max_keep_ckpts=1, save_best='accuracy/top1'),
)
"""


@dataclass
class Moment:
    """When to kill: after so many seconds, or at the write of this number."""

    seconds: float = 0.0
    write: int = 0

    def __str__(self) -> str:
        return f'write {self.write}' if self.write else f'{self.seconds:.2f} s'


@dataclass
class Place:
    """The folders of a run, each its own.

    Args:
        root (Path): Holds all of them.
    """

    root: Path

    def __post_init__(self) -> None:
        """Make them."""
        self.work_dir, self.caches, self.temporary = (
            self.root / name for name in ('work_dir', 'caches', 'tmp')
        )
        for folder in (self.work_dir, self.caches, self.temporary):
            folder.mkdir(parents=True)

    def start(self, words: list[str], dies_at: int | None = None) -> ForkProcess:
        """Start a tool, whose path is the first word, in a session of its own.

        Args:
            words (list[str]): The command line.
            dies_at (int, optional): The write, from 1 on, at which it kills itself; 0
                only counts its writes. Defaults to None.
        """
        process = get_context('fork').Process(target=self._run, args=(words, dies_at))
        process.start()
        return process

    def _run(self, words: list[str], dies_at: int | None) -> None:
        os.setsid()  # so that its children can be killed with it
        log = os.open(self.root / 'log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.chdir(self.root)
        os.environ.update(
            XDG_CACHE_HOME=str(self.caches),
            TMPDIR=str(self.temporary),
            OMP_NUM_THREADS='1',
            CUDA_VISIBLE_DEVICES='',
            PYTHONPATH=str(ROOT),
            LOCAL_RANK='0',
        )
        tempfile.tempdir = None  # It is read once from the environment.
        # The layout of configs would take most of such a short run.
        yapf_api.FormatCode = lambda text, **_: (text, True)
        sys.argv = words
        writes = None if dies_at is None else die_at_a_write(dies_at)
        runpy.run_path(words[0], run_name='__main__')
        if writes is not None:
            Path(COUNT).write_text(str(next(writes) - 1), encoding='utf-8')

    def finish(self, words: list[str], dies_at: int | None = None) -> float:
        """Run a tool to its end and return how many seconds it took.

        Raises:
            RuntimeError: it failed.
        """
        began = time.monotonic()
        process = self.start(words, dies_at)
        process.join()
        if process.exitcode:
            code = process.exitcode
            raise RuntimeError(f'{words} ended with {code}, see {self.root}/log')
        return time.monotonic() - began

    def hit(self) -> str:
        """Return what a kill has cut short, going by the files and by what it said."""
        parts = [path.name for path in self.root.rglob('*.part')]
        files = [path for path in self.work_dir.rglob('*.*') if path.is_file()]
        parts += [path.name for path in files if not path.stat().st_size]
        parts += [path.read_text() for path in self.root.glob(DIED_AT)]
        for word, kind in (
            ('last_checkpoint', 'last_checkpoint'),
            ('.pth', 'a checkpoint'),
            ('.bin', 'a cache'),
            ('', 'another file'),
        ):
            if any(word in name for name in parts):
                return kind
        return 'elsewhere'

    def result(self) -> dict:
        """Return the numbers of a table, or the weights and logged scalars of a run.

        Of a step that was run twice, the latest scalars count.
        """
        for path in self.root.glob('results/*.json'):
            return dict(flat(json.loads(path.read_text(encoding='utf-8'))))
        found: dict = {}
        for path in sorted(self.work_dir.glob('*.pth')):
            weights = read_checkpoint(str(path), 'work_dir', '')['state_dict']
            for key, value in weights.items():
                found.update(flat(value.tolist(), (path.name, key)))
        for path in sorted(self.work_dir.glob('*/vis_data/scalars.json')):
            for line in logged_lines(path.read_text(encoding='utf-8')):
                place = 'train' if 'lr' in line else 'val', line['step']
                found.update(flat(line, place))
        return found

    def left(self) -> list[str]:
        """Return what lies in the temporary folder, but for torch's compiled code."""
        names = [path.name for path in self.temporary.iterdir()]
        return sorted(x for x in names if not x.startswith('torchinductor_'))


def kill(process: ForkProcess, seconds: float) -> None:
    """Kill a process and its children after a time."""
    process.join(seconds)
    process.kill()
    with suppress(ProcessLookupError):  # It has not made its session yet, or has ended.
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def name_of(argument: object) -> str:
    """Return a path, or that of a number under which a file is open (on Linux)."""
    if isinstance(argument, int):
        with suppress(OSError):
            return os.readlink(f'/proc/self/fd/{argument}')
    return str(argument)


def die_at_a_write(number: int) -> Iterator[int]:
    """Let this process kill itself at one of its writes; return what counts them."""
    counter, plain_open = count(1), builtins.open

    def deadly(function: Callable) -> Callable:
        def call(*args, **kwargs):
            if next(counter) == number:
                with plain_open(DIED_AT, 'w') as note:
                    note.write(' '.join(name_of(part) for part in args))
                if function is plain_open:
                    function(*args, **kwargs)  # which leaves an empty file
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    deadly_open, here = deadly(plain_open), os.getcwd()

    def open_or_die(file, mode='r', *args, **kwargs):
        ours = str(file).startswith(here) and mode[0] in 'wax'
        return (deadly_open if ours else plain_open)(file, mode, *args, **kwargs)

    builtins.open = open_or_die
    os.replace, os.fsync = deadly(os.replace), deadly(os.fsync)
    return counter


def write_images(folder: Path) -> None:
    """Write scans of digits as files, which a cache is made from."""
    digits = load_digits(n_class=CLASSES)
    for label in range(CLASSES):
        place = folder / str(label)
        place.mkdir(parents=True)
        for index, scan in enumerate(digits.images[digits.target == label][:16]):
            image = cv2.resize((scan * 15.9).astype('uint8'), (16, 16))
            path = place / f'{index}.png'
            cv2.imwrite(str(path), image)
            os.utime(path, (0, 0))  # What has just changed is not cached.


def write_config(folder: Path) -> Path:
    """Write a config of a small distillation run on images in files."""
    write_images(folder / 'data')
    teacher = folder / 'teacher.pth'
    net = get_model(str(CONFIGS / 'vanilla' / 'resnet20_digits.py'), pretrained=False)
    torch.save(dict(meta={}, state_dict=net.state_dict()), teacher)
    text = CONFIG.format(
        base=str(CONFIGS / 'cakd' / 'demo_digits.py'),
        teacher=str(teacher),
        epochs=EPOCHS,
        data=str(folder / 'data'),
    )
    path = folder / 'small.py'
    path.write_text(text, encoding='utf-8')
    return path


def training(folder: Path) -> list[str]:
    """Return the command of the run, whose config is written into the folder."""
    config = str(write_config(folder))
    return [str(TOOLS / 'train.py'), config, '--resume', '--work-dir', WORK_DIR]


def flat(node: object, key: tuple = ()) -> Iterator[tuple[tuple, object]]:
    """Yield (place, value) of each value of nested content, without times."""
    pairs = enumerate(node) if isinstance(node, list) else None
    pairs = node.items() if isinstance(node, Mapping) else pairs
    if pairs is None:
        yield key, node
        return
    for name, value in pairs:
        if name not in CLOCKS:
            yield from flat(value, (*key, name))


def differing(left: Mapping, right: Mapping) -> int:
    """Count the values that are not the same, nan being the same as nan."""
    return sum(
        repr(left.get(key, math.nan)) != repr(right.get(key, math.nan))
        for key in left.keys() | right.keys()
    )


def trial(place: Place, command: list[str], moment: Moment, ended: dict) -> dict:
    """Kill a command once, start it again, and compare; return a row of the table."""
    if moment.write:
        place.start(command, moment.write).join()
    else:
        kill(place.start(command), moment.seconds)
    row = dict(moment=str(moment), hit=place.hit(), left=place.left())
    place.finish(command)
    found = place.result()
    return dict(
        row,
        values=len(ended),
        differing=differing(ended, found),
        parts=[path.name for path in place.root.rglob('*.part')],
        left_at_the_end=place.left(),
    )


def series(
    name: str, kills: int, command: list[str], folder: Path, draw: random.Random
) -> list[dict]:
    """Run a command undisturbed, and once for every kill."""
    if not kills:
        return []
    whole = Place(folder / f'{name}_whole')
    seconds = whole.finish(command, dies_at=0)
    writes, ended = int((whole.root / COUNT).read_text()), whole.result()
    print(f'{name}: {seconds:.1f} s, {writes} writes, {len(ended)} values compared')
    rows = []
    for number in range(kills):
        moment = Moment(seconds=draw.uniform(0, seconds))
        if number % 2:
            moment = Moment(write=draw.randint(1, writes))
        place = Place(folder / f'{name}_{number}')
        rows.append(trial(place, command, moment, ended))
        print(f'  {name} {number}: {rows[-1]}', flush=True)
        if not rows[-1]['differing']:
            shutil.rmtree(place.root)
    return rows


def show(name: str, rows: list[dict]) -> None:
    """Print what the kills of one kind hit, and what came of it."""
    print(f'\n| {name}: hit | kills | differing values | parts left | temporary left |')
    print('| --- | --- | --- | --- | --- |')
    for hit in sorted({row['hit'] for row in rows}):
        some = [row for row in rows if row['hit'] == hit]
        columns = ('differing', 'parts', 'left_at_the_end')
        sums = [sum(map(size_of, (row[key] for row in some))) for key in columns]
        print(f'| {hit} | {len(some)} | {" | ".join(map(str, sums))} |')


def size_of(entry: int | list) -> int:
    return entry if isinstance(entry, int) else len(entry)


def main() -> None:
    """Kill, go on, compare; exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--runs', type=int, default=30, help='kills of a training run')
    parser.add_argument('--tables', type=int, default=10, help='kills of a table')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/kills'))
    args = parser.parse_args()
    folder = args.work_dir.resolve()
    if folder.exists():
        parser.error(f'--work-dir {folder}: it exists; name a new folder')
    folder.mkdir(parents=True)
    torch.set_num_threads(1)  # as the runs do
    draw = random.Random(args.seed)
    table = [str(TOOLS / 'reproduce.py'), *TABLE, '--work-dir', WORK_DIR]
    found = dict(
        run=series('run', args.runs, training(folder), folder, draw),
        table=series('table', args.tables, table, folder, draw),
    )
    for name, rows in found.items():
        show(name, rows)
    sys.exit(any(row['differing'] for rows in found.values() for row in rows))


if __name__ == '__main__':
    main()
