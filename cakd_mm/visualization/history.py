"""The log of a run: read, joined over all starts, and its curves."""

from dataclasses import dataclass
from pathlib import Path
from statistics import mode

from mmengine.config import Config

from ..utils.errors import describe
from ..utils.extract import EXTRACTED
from ..utils.runs import METRIC, logged_lines

LOG = '*/vis_data/scalars.json'


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
        x = [*self.scores]
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


def is_run(work_dir: Path) -> bool:
    """Whether a folder is the work dir of a run that has logged something."""
    logs = (parse(file.read_text()) for file in work_dir.glob(LOG))
    return any(log.train or log.val for log in logs)


def configs_of(work_dir: Path) -> list[Path]:
    """Return the configs that training has left in a work dir, the newest first."""
    found = [x for x in work_dir.glob('*.py') if not EXTRACTED.fullmatch(x.stem)]
    return sorted(found, key=lambda file: (-file.stat().st_mtime, file.name))


def read_history(work_dir: Path) -> tuple[History, Config]:
    """Join the logs of all starts of a run; a later one replaces what it repeats.

    Returns:
        The log, and the config of the last start.

    Raises:
        FileNotFoundError: nothing was logged there, or the config is missing.
    """
    history, last = History([], []), None
    for file in sorted(work_dir.glob(LOG)):
        new = parse(file.read_text())
        if new.train or new.val:
            history, last = join(history, new), file.parent
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
