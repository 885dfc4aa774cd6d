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
    """The log of a run, of all its starts."""

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
    """Return (epoch, mean) over the seeds' curves, of the epochs that all have."""
    if not curves:
        return []
    scores = [dict(curve) for curve in curves]
    common = sorted(set.intersection(*map(set, scores)))
    return [(epoch, mean(own[epoch] for own in scores)) for epoch in common]


def is_run(work_dir: Path) -> bool:
    """Whether a folder is the work dir of a run that has logged something."""
    logs = (parse(file.read_text()) for file in work_dir.glob(LOG))
    return any(log.train or log.val for log in logs)


def configs_of(work_dir: Path) -> list[Path]:
    """Return the configs that training has left in a work dir, the newest first."""
    found = [x for x in work_dir.glob('*.py') if not EXTRACTED.fullmatch(x.stem)]
    return sorted(found, key=lambda file: (-file.stat().st_mtime, file.name))


def read_history(work_dir: Path) -> tuple[History, Config]:
    """Return the log of a run, see :func:`read_logs`, and the config of its last start.

    Raises:
        FileNotFoundError: nothing was logged there, or the config is missing.
    """
    history, last = read_logs(work_dir)
    if last is None:
        problem = f'It has no {LOG} with logged lines.'
        remedy = 'Name the work dir of a run of tools/train.py.'
        raise FileNotFoundError(describe('WORK_DIR', str(work_dir), problem, remedy))
    saved = [last / 'config.py', *configs_of(work_dir)]
    saved = [file for file in saved if file.is_file()]
    if not saved:
        problem = 'The config that training leaves there is missing.'
        remedy = 'Copy the config of the run into it.'
        raise FileNotFoundError(describe('WORK_DIR', str(work_dir), problem, remedy))
    return history, Config.fromfile(saved[0])


def read_logs(work_dir: Path) -> tuple[History, Path | None]:
    """Join the logs of all starts of a run; a later one replaces what it repeats.

    Returns:
        The log, empty if there is none yet, and the folder of the last start's.
    """
    history, last = History([], []), None
    for file in sorted(work_dir.glob(LOG)):
        new = parse(file.read_text())
        if new.train or new.val:
            history, last = join(history, new), file.parent
    return history, last


def logged_lines(text: str) -> list[dict]:
    """Return the scalars of each step that mmengine's json log has."""
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # a run under way is writing it, or was killed
            continue
    return [line for line in lines if 'step' in line]


def parse(text: str) -> History:
    """Read the lines of a log, one start's."""
    history = History([], [])
    for line in logged_lines(text):
        (history.train if 'loss' in line else history.val).append(line)
    return history


def join(old: History, new: History) -> History:
    """Return ``old`` as far as ``new`` does not repeat it, and then ``new``."""
    train, val = old.train, old.val
    if new.train:
        first = new.train[0]
        train = [line for line in train if line['step'] < first['step']]
        bound = first.get('epoch', first['step'])
        val = [line for line in val if line['step'] < bound]
    if new.val:
        val = [line for line in val if line['step'] < new.val[0]['step']]
    return History(train + new.train, val + new.val)
