"""The log of a run: read, joined over all starts, and its curves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, mode

from mmengine.config import Config

from ..utils.errors import describe
from ..utils.extract import EXTRACTED

LOG = '*/vis_data/scalars.json'
METRIC = 'accuracy/top1'


@dataclass
class History:
    """The log of a run, of all its starts: lines of training and of validation."""

    train: list[dict]
    val: list[dict]

    @property
    def keys(self) -> list[str]:
        """All that was logged in training, in order of appearance."""
        return list(dict.fromkeys(key for line in self.train for key in line))

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps between equal positions in two epochs; None if that is unknown."""
        first: dict[int, int] = {}
        for line in self.train:
            if 'epoch' in line:
                first.setdefault(line['epoch'], line['step'])
        gaps = [first[e + 1] - first[e] for e in first if e + 1 in first]
        return mode(gaps) if gaps else None

    @property
    def unit(self) -> str:
        """What the x axis counts."""
        return 'epoch' if self.steps_per_epoch else 'step'

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Return x, in :attr:`unit`, and y of a logged training scalar."""
        scale = self.steps_per_epoch or 1
        lines = [line for line in self.train if key in line]
        return [line['step'] / scale for line in lines], [line[key] for line in lines]

    @property
    def scores(self) -> dict[int, float]:
        """Top-1, in percent, by what the loop counts: epochs or iterations."""
        return {line['step']: line[METRIC] for line in self.val if METRIC in line}

    def validation(self) -> tuple[list[float], list[float]]:
        """Return x and top-1, in percent."""
        x: list[float] = [*self.scores]
        # A loop by epochs numbers validations by epochs.
        if self.train and 'epoch' in self.train[0] and not self.steps_per_epoch:
            ends = {line['epoch']: line['step'] for line in self.train}
            x = [ends.get(epoch, epoch) for epoch in x]
        return x, [*self.scores.values()]

    def terms(self) -> dict[str, list[str]]:
        """Return the names of the terms of each loss, by its short name."""
        found: dict[str, list[str]] = {}
        for key in self.keys:
            loss, slash, term = key.partition('/')
            if slash:
                found.setdefault(loss, []).append(term)
        return found


def mean_curve(
    curves: Sequence[Sequence[tuple[int, float]]],
) -> list[tuple[int, float]]:
    """Return (epoch, mean over the curves) of the epochs that all curves have."""
    if not curves:
        return []
    scores = [dict(curve) for curve in curves]
    common = sorted(set.intersection(*map(set, scores)))
    return [(epoch, mean(score[epoch] for score in scores)) for epoch in common]


def is_run(work_dir: Path) -> bool:
    """Whether a folder is the work dir of a run that has logged something."""
    return any(lines_of(file) for file in work_dir.glob(LOG))


def configs_of(work_dir: Path) -> list[Path]:
    """Return the configs that training has left in a work dir, the newest first."""
    found = [x for x in work_dir.glob('*.py') if not EXTRACTED.fullmatch(x.stem)]
    return sorted(found, key=lambda file: (-file.stat().st_mtime, file.name))


def read_history(work_dir: Path, imports: bool = True) -> tuple[History, Config]:
    """Return the log of a run, see :func:`read_logs`, and the config of its last start.

    Args:
        work_dir: Where it is.
        imports: Whether its ``custom_imports`` are imported, which only building needs.
            Defaults to True.

    Raises:
        FileNotFoundError: nothing was logged there, or the config is missing.
    """
    history, last = read_logs(work_dir)
    problem = f'It has no {LOG} with logged lines.'
    remedy = 'Name the work dir of a run of tools/train.py.'
    if last is not None:
        for file in (last / 'config.py', *configs_of(work_dir)):
            if file.is_file():
                return history, Config.fromfile(file, import_custom_modules=imports)
        problem = 'The config that training leaves there is missing.'
        remedy = 'Copy the config of the run into it.'
    raise FileNotFoundError(describe('WORK_DIR', str(work_dir), problem, remedy))


def read_logs(work_dir: Path) -> tuple[History, Path | None]:
    """Join the logs of all starts of a run; a later one replaces what it repeats.

    Returns:
        The joined log, and the folder of the log of the last start. Before anything
        is logged, an empty log and None.
    """
    history, last = History([], []), None
    for file in sorted(work_dir.glob(LOG)):
        if lines := lines_of(file):
            history, last = join(history, lines), file.parent
    return history, last


def lines_of(file: Path) -> list[dict]:
    """Return the scalars of a log file, see :func:`logged_lines`."""
    return logged_lines(file.read_text(encoding='utf-8', errors='replace'))


def logged_lines(text: str) -> list[dict]:
    """Return the scalars of each step that mmengine's json log has."""
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # The run is writing this line, or was killed while it did.
    return [line for line in lines if 'step' in line]


def join(old: History, lines: list[dict]) -> History:
    """Return ``old`` as far as a later start does not repeat it, then its lines."""
    train, val = old.train, old.val
    new_train = [line for line in lines if 'loss' in line]
    new_val = [line for line in lines if 'loss' not in line]
    if new_train:
        first = new_train[0]
        train = [line for line in train if line['step'] < first['step']]
        bound = first.get('epoch', first['step'])
        val = [line for line in val if line['step'] < bound]
    if new_val:
        val = [line for line in val if line['step'] < new_val[0]['step']]
    return History(train + new_train, val + new_val)
