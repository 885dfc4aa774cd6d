"""``tools/train.py --fast``: makes a run faster where it bears that, and says where."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ...models.runtime import build_runtime
from ...utils.agreement import exchange
from ...utils.checkpoint import is_remote, read_checkpoint
from ...utils.config_text import values_in
from ...utils.model import unwrap
from .device import adapt_mixed_precision
from .fast_data import (
    keep_in_memory,
    let_go,
    room,
    why_no_resident_train,
    why_no_resident_val,
)
from .fast_nets import (
    Times,
    computes_in_half,
    why_no_bf16_student,
    why_no_compiled_student,
    why_no_fast_teacher,
)
from .speeds import (
    BF16_STUDENT,
    BF16_TEACHER,
    COMPILED_STUDENT,
    FAST_TEACHER,
    LEVELS,
    PARTS,
    RESIDENT_TRAIN,
    RESIDENT_VAL,
    parts_of,
)

OPTION = '--fast'
KEY = 'fast'  # of the config that a run leaves, where its choice stands
WORD = re.compile(r'[\w-]*')


def spelled_out(words: Sequence[str]) -> list[str]:
    """Return a command's words with the level that a bare ``--fast`` means.

    Otherwise a config that comes next would be taken for the level. A level has neither
    the dot of a file's name nor the colons of ``cakd_mm::``.
    """
    spelled = list(words)
    for index, word in enumerate(words):
        following = words[index + 1] if index + 1 < len(words) else '-'
        is_level = WORD.fullmatch(following) and not following.startswith('-')
        if word == OPTION and not is_level:
            spelled[index] = f'{OPTION}={LEVELS[0]}'
    return spelled


def make_fast(runner: Runner, level: str, hooks: Mapping[str, Any]) -> None:
    """Switch on what makes a run faster, as far as the run bears it.

    A part that does not go with the run, or does not pay on this machine, is left out,
    and a line of the log says why. What the config sets itself stays as it is. The
    choice is the same on all ranks. It becomes part of the run's config, and a run that
    is gone on with at the same level keeps it.

    Args:
        runner (Runner): Before its first step.
        level (str): One of :data:`speeds.LEVELS`.
        hooks (Mapping): ``default_hooks`` as they were written: the runner's own lack
            those that None switches off.
    """
    choice = _Choice(runner, level, hooks)
    choice.make()
    runner.cfg[KEY] = dict(level=level, parts=choice.parts)
    runner.logger.info(f'{OPTION} {level}: {", ".join(choice.said) or "nothing"}.')
    runner.dump_config()
    backend = runner.visualizer.get_backend('LocalVisBackend')
    if backend is not None:  # It has written the config of before.
        backend.add_config(runner.cfg)


class _Choice:
    """What is chosen for a run.

    Attributes:
        parts (list[str]): The parts of :data:`speeds.PARTS` that are switched on.
        said (list[str]): The same with their figures, for the log.
    """

    def __init__(self, runner: Runner, level: str, hooks: Mapping[str, Any]) -> None:
        self.runner = runner
        self.hooks = hooks
        self.level = level
        self.wanted = parts_of(level)
        self.before = _parts_before(runner.cfg, level)
        self.times = Times(runner, BF16_TEACHER in self.wanted)
        self.parts: list[str] = []
        self.said: list[str] = []

    def make(self) -> None:
        """Switch on one part after the other, and log what is left out."""
        self._choose_data(RESIDENT_TRAIN, why_no_resident_train(self.runner))
        self._choose_data(RESIDENT_VAL, why_no_resident_val(self.runner))
        of_student = why_no_compiled_student(self.runner, self.hooks)
        of_teacher = why_no_fast_teacher(self.runner)
        uncompiled = None
        if self.before is None and None in (of_student, of_teacher):
            uncompiled = self._agreed(self.times.why_not_compile())
        if self._is_left(COMPILED_STUDENT, of_student or uncompiled):
            self._switch_on(COMPILED_STUDENT)
            hook = self.runner.cfg.default_hooks.student_runtime
            self.runner.register_hook(dict(hook))
        self._choose_teacher(of_teacher, uncompiled)
        if BF16_STUDENT in self.wanted:
            self._choose_bf16_student()

    def _choose_data(self, part: str, reason: str | None) -> None:
        figures = ''
        if self.before is None and reason is None:
            fits, figures = room(self.runner.cfg, part)
            reason = None if fits else f'it takes {figures}, and may take a quarter.'
        if not self._is_left(part, reason):
            return
        key = 'train_cfg' if part == RESIDENT_TRAIN else 'val_cfg'
        before = copy.deepcopy(self.runner.cfg[key])
        if self._is_left(part, keep_in_memory(self.runner, part)):
            self._note(part, figures)
        else:
            let_go(self.runner, part, before)

    def _choose_teacher(self, reason: str | None, uncompiled: str | None) -> None:
        part, figures, settings = FAST_TEACHER, '', dict[str, Any](strict=False)
        if BF16_TEACHER in self.wanted:
            slow = None
            if reason is None and self.before is None:
                pays, figures = self.times.of_half('teacher')
                slow = None if pays else f'it does not pay here: {figures}.'
            if self._is_left(BF16_TEACHER, reason or slow):
                part = BF16_TEACHER
            elif reason is not None:  # which holds for float32 as well
                return
        if part == BF16_TEACHER:
            # It pays without being compiled, too.
            settings.update(compile=uncompiled is None)
        elif not self._is_left(FAST_TEACHER, reason or uncompiled):
            return
        elif computes_in_half(self.runner.cfg):
            settings.update(dtype='auto')  # as it would without --fast
        self._switch_on(part, figures if part == BF16_TEACHER else '')
        self.runner.cfg.model.teacher_runtime.update(settings)
        written = dict(self.runner.cfg.model.teacher_runtime)
        unwrap(self.runner.model).teacher_runtime = build_runtime(written)

    def _choose_bf16_student(self) -> None:
        reason, figures = why_no_bf16_student(self.runner), ''
        if reason is None and self.before is None:
            pays, figures = self.times.of_half('student')
            reason = None if pays else f'it does not pay here: {figures}.'
        if self._is_left(BF16_STUDENT, reason):
            self._switch_on(BF16_STUDENT, figures)
            adapt_mixed_precision(self.runner.cfg)
            self.runner.optim_wrapper = self.runner.cfg.optim_wrapper

    def _is_left(self, part: str, reason: str | None) -> bool:
        """Tell whether no rank has a reason against a part, or log the first one."""
        if reason is None and self.before is not None and part not in self.before:
            reason = 'the run has begun without it.'
        reason = self._agreed(reason)
        if reason is not None:
            start = f'{OPTION} {self.level} leaves out the {part}'
            self.runner.logger.info(f'{start}: {reason}')
        return reason is None

    def _agreed(self, reason: str | None) -> str | None:
        return next((one for one in exchange(reason) if one is not None), None)

    def _switch_on(self, part: str, figures: str = '') -> None:
        self.runner.cfg.merge_from_dict(dict(PARTS[part]))
        self._note(part, figures)

    def _note(self, part: str, figures: str) -> None:
        self.parts.append(part)
        self.said.append(f'{part} ({figures})' if figures else part)


def _parts_before(cfg: Config, level: str) -> list[str] | None:
    """Return the parts of the run that is gone on with, if it had the same level."""
    path = cfg.get('load_from')
    if not cfg.get('resume') or not path or is_remote(path):
        return None
    meta = read_checkpoint(path, 'load_from', 'Name another.').get('meta')
    before = values_in((meta or {}).get('cfg')).get(KEY)
    if not isinstance(before, dict) or before.get('level') != level:
        return None
    parts = before.get('parts')
    return [x for x in parts if x in PARTS] if isinstance(parts, list) else None
