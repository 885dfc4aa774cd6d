"""What a run goes on from, or starts from."""

import logging
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from ...utils.agreement import exchange, require_same
from ...utils.checkpoint import is_remote, read_checkpoint
from ...utils.config_text import written
from ...utils.errors import describe
from ...utils.newest_checkpoint import (
    KEY,
    Found,
    lacks,
    named_checkpoints,
    newest_checkpoint,
    number_of,
)

REMEDY = 'Let the nodes share the work dir, or copy the checkpoint to each.'


def check_checkpoints(cfg: Config) -> None:
    """Read the checkpoint that a config names, before building.

    That of ``--resume`` without a path is chosen and read by :func:`choose_checkpoint`.
    A rank may lack a ``load_from``, whose weights :class:`SameRanksHook` sends it.

    Raises:
        FileNotFoundError, ValueError: it is missing or cannot be read.
        OtherRankError: another rank has failed so.
    """
    path, resumes = cfg.get('load_from'), cfg.get('resume')
    is_here = bool(path) and os.path.isfile(os.path.expanduser(path))
    if resumes:
        _require_file_on_all(is_here, path)
    elif any(exchange(is_here)) and not is_here:
        return
    if path and not is_remote(path):
        key = KEY if resumes else 'load_from'
        remedy = 'Correct the path.'
        if resumes:
            remedy = 'Name an earlier checkpoint of the work dir.'
        checkpoint = read_checkpoint(path, key, remedy)
        if resumes:
            if lacking := lacks(checkpoint):
                remedy = (
                    'Name a checkpoint of a run; load_from=PATH takes weights alone.'
                )
                raise ValueError(describe(KEY, path, f'It lacks {lacking}.', remedy))
            for note in _about_scheduler(cfg, checkpoint, path):
                print_log(note, 'current', logging.WARNING)


def choose_checkpoint(cfg: Config) -> list[tuple[int, str]]:
    """Let a run that is to go on without a path go on from its newest whole checkpoint.

    Its path becomes the config's ``load_from``. If the work dir has none, the run
    begins from scratch. The first rank chooses for all, and each takes the file of
    that name from its own work dir.

    Returns:
        list[tuple[int, str]]: What to log, each with its level.

    Raises:
        ValueError: no file is whole, and one is not merely cut short, so that training
            from scratch could overwrite what is of use; or ranks find different ones.
        OtherRankError: another rank has failed so.
    """
    if not cfg.get('resume') or cfg.get('load_from'):
        return []
    found = Found()
    if is_main_process():
        found = _newest(cfg)
    name, *_ = exchange(_within(cfg.work_dir, found.path))
    notes = list[tuple[int, str]]()
    if name is None:  # A node with a work dir of its own may have one.
        if not is_main_process():
            found = _newest(cfg)
        text = os.path.abspath(found.path) if found.path else 'no whole checkpoint'
        _require_same(text, cfg.work_dir)
        cfg.load_from = None
    else:
        remote = is_remote(name)
        cfg.load_from = name if remote else os.path.join(cfg.work_dir, name)
        _require_file_on_all(remote or os.path.isfile(cfg.load_from), cfg.load_from)
        notes = _about_newer(cfg)
    cfg.resume = cfg.load_from is not None
    return _notes(cfg, found) + notes


def _within(work_dir: str, path: str | None) -> str | None:
    """Return a path as seen from the work dir, or as it is if it leads out of it."""
    if path is None or is_remote(path):
        return path
    name = os.path.relpath(path, work_dir)
    return os.path.abspath(path) if name.startswith(os.pardir) else name


def _newest(cfg: Config) -> Found:
    """Return the newest whole checkpoint of this rank's work dir.

    Raises:
        ValueError: there is none, but a file that may be of use.
    """
    found = newest_checkpoint(Path(cfg.work_dir), cfg)
    if found.refused and found.path is None:
        problem = f'No checkpoint there can be read: {[*found.refused.values()]}.'
        remedy = f'Name one with {KEY} PATH, or move them away to begin anew.'
        raise ValueError(describe(KEY, cfg.work_dir, problem, remedy))
    return found


def _require_file_on_all(is_here: bool, path: str | None) -> None:
    if len(set(exchange(is_here))) > 1:
        place = os.path.abspath(os.path.expanduser(path or ''))
        _require_same(place if is_here else f'no file {place}', path)


def _about_newer(cfg: Config) -> list[tuple[int, str]]:
    """Say if other ranks have a later checkpoint than the first one, and it has not."""
    chosen = Path(cfg.load_from)
    kind = chosen.name.rpartition('_')[0]  # such as `epoch`
    found = {x.name for x in named_checkpoints(Path(cfg.work_dir), cfg)}
    first, *others = exchange(found)
    later = [
        (number_of(Path(name)), name, rank)
        for rank, own in enumerate(others, 1)
        for name in own - first
        if name.rpartition('_')[0] == kind
    ]
    number, name, rank = max(later, default=(0, '', 0))
    if number <= number_of(chosen):
        return []
    problem = f'Rank {rank} has {name}, which rank 0 has not.'
    remedy = 'To go on from that, copy it into the work dir of each node.'
    return [(logging.WARNING, describe(KEY, cfg.load_from, problem, remedy))]


def _require_same(found: str, path: str | None) -> None:
    problem = 'The ranks do not find the same to go on from:'
    require_same(found, KEY, path, problem, REMEDY)


def _notes(cfg: Config, found: Found) -> list[tuple[int, str]]:
    broken = {**found.refused, **found.cut}
    notes = [(logging.WARNING, text) for text in broken.values()]
    if cfg.resume:
        text = f'Going on from {cfg.load_from}, the newest whole checkpoint.'
        notes.append((logging.INFO, text))
    else:
        text = f'{cfg.work_dir} has no whole checkpoint: training begins from scratch.'
        notes.append((logging.WARNING if broken else logging.INFO, text))
    about = _about_scheduler(cfg, found.checkpoint, str(found.path))
    return notes + [(logging.WARNING, text) for text in about]


def _about_scheduler(cfg: Config, checkpoint: dict, path: str) -> list[str]:
    """Say if a resumed run keeps another schedule of the learning rate."""
    key = 'param_scheduler'
    before = written((checkpoint.get('meta') or {}).get('cfg'), key)
    if not before or before == written(Config({key: cfg.get(key)}).pretty_text, key):
        return []
    return [
        describe(
            key,
            cfg.get(key),
            f'{path} was trained with {before}, and mmengine goes on with that.',
            'To change the schedule, write model.student_ckpt=... (load_from of a '
            'plain classifier) and begin anew.',
        )
    ]
