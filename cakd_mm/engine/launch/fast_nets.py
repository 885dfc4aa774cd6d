"""Whether a run's nets can be computed faster, and whether that pays here."""

from functools import cached_property

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn

from ...models.algorithms import FrozenTeacherDistill
from ...models.runtime import (
    PAYS,
    convolution_seconds,
    seconds_per_image,
    unreached,
)
from ...utils.agreement import exchange
from ...utils.compiling import why_not_compile
from ...utils.model import unwrap
from ...utils.random_states import random_states_kept
from ..hooks import StudentRuntimeHook
from .device import WITHOUT_AMP

# A run that takes fewer seconds is over before its compilation has paid.
SHORT = 60.0
OPTIM_WRAPPER = 'OptimWrapper'
# Keys of a config that change how nets are computed. Nobody has tried compiled nets
# with them.
UNTRIED = ('compile', 'activation_checkpointing', 'efficient_conv_bn_eval', 'sync_bn')


def why_no_fast_teacher(runner: Runner) -> str | None:
    """Return what keeps the teacher from being run as a fast copy."""
    model, settings = unwrap(runner.model), runner.cfg.model
    if not hasattr(model, 'teacher'):
        return 'there is no teacher.'
    if not isinstance(model, FrozenTeacherDistill):
        kind = type(model).__name__
        return f"{kind} cannot do it; model.type='FrozenTeacherDistill' could."
    if 'teacher_runtime' in settings:
        return 'the config sets model.teacher_runtime.'
    if model.teacher_is_shared_out:
        return 'the ranks share out its weights.'
    found = unreached(model.distiller, model.teacher_mode)
    if found is not None:
        return '{}={!r}: {}'.format(*found)
    return _untried(runner.cfg)


def why_no_compiled_student(runner: Runner) -> str | None:
    """Return what keeps the student's backbone from being compiled."""
    model = unwrap(runner.model)
    net = getattr(model, 'student', model)
    is_set = any(isinstance(hook, StudentRuntimeHook) for hook in runner.hooks)
    if is_set or 'student_runtime' in (runner.cfg.get('default_hooks') or {}):
        return 'the config sets default_hooks.student_runtime.'
    if not isinstance(net, BaseClassifier) or not hasattr(net, 'backbone'):
        return f'{type(net).__name__} is no classifier with a backbone.'
    return _untried(runner.cfg)


def why_no_bf16_student(runner: Runner) -> str | None:
    """Return what keeps the student from being trained in bf16."""
    wrapper = runner.cfg.get('optim_wrapper') or {}
    if wrapper.get('type', OPTIM_WRAPPER) != OPTIM_WRAPPER:
        return 'the config, or --amp, sets optim_wrapper.type.'
    device = _device(runner)
    if device.type in WITHOUT_AMP:
        return f"mmengine's mixed precision does not know this device, {device.type}."
    return None


def computes_in_half(cfg: Config) -> bool:
    """Return whether the config trains in mixed precision."""
    kind = (cfg.get('optim_wrapper') or {}).get('type', OPTIM_WRAPPER)
    return kind in ('AmpOptimWrapper', 'BF16OptimWrapper', 'CPUAmpOptimWrapper')


class Times:
    """How long the nets of a run take on this machine, the mean of all ranks.

    They are measured when they are asked for, in a second or two.

    Args:
        runner (Runner): It has its loops.
        in_half (bool): Whether bf16 is measured as well.
    """

    def __init__(self, runner: Runner, in_half: bool) -> None:
        self.runner = runner
        self.dtypes = [torch.float32, torch.bfloat16] if in_half else [torch.float32]

    def why_not_compile(self) -> str | None:
        """Return what keeps compiling from working, or from paying."""
        seconds = self._seconds_of_run()
        if seconds is not None and seconds < SHORT:
            return (
                f'the whole run takes some {seconds:.0f} s without, and compiling '
                f'does not pay in less than {SHORT:.0f} s.'
            )
        return why_not_compile(_device(self.runner))

    def of_half(self, part: str) -> tuple[bool, str]:
        """Return whether the teacher or student pays in bf16, and what was measured.

        On a GPU a convolution is measured, because there a small net as it is waits
        for the host, which compiled nets do less.

        Args:
            part (str): ``'teacher'`` or ``'student'``.
        """
        device, what = _device(self.runner), 'an image'
        seconds = self._of_nets.get(part) if device.type == 'cpu' else None
        if seconds is None:
            what = 'a convolution'
            own = convolution_seconds(torch.bfloat16, device)
            seconds = _mean(list(own))
        plain, half = seconds
        figures = f'{what} takes {1e3 * half:.3g} ms in bf16, {1e3 * plain:.3g} in '
        return plain / half >= PAYS, f'{figures}float32'

    @cached_property
    def _of_nets(self) -> dict[str, list[float]]:
        """Seconds for an image by net, in each type; none where it cannot be tried."""
        model, image = unwrap(self.runner.model), _first_image(self.runner)
        nets: dict[str, nn.Module] = {'student': getattr(model, 'student', model)}
        if isinstance(model, FrozenTeacherDistill) and not model.teacher_is_shared_out:
            nets['teacher'] = model.teacher
        found = {}
        for name, net in nets.items():
            trains = name == 'student'
            seconds = []
            if image is not None and (isinstance(net, BaseClassifier) or not trains):
                shown = image if trains else model.teacher_inputs(image[None])[0]
                seconds = seconds_per_image(
                    net, shown, self._batch_size, trains, *self.dtypes
                )
            found[name] = _mean(seconds)
        return {name: times for name, times in found.items() if times}

    @cached_property
    def _batch_size(self) -> int:
        loader = self.runner.train_loop.dataloader
        return getattr(loader.batch_sampler, 'batch_size', None) or 1

    def _seconds_of_run(self) -> float | None:
        """Return what all steps take without being compiled, None if it is unknown."""
        if 'student' not in self._of_nets:
            return None
        step = self._batch_size * sum(times[0] for times in self._of_nets.values())
        return self.runner.train_loop.max_iters * step


def _untried(cfg: Config) -> str | None:
    found = [key for key in UNTRIED if cfg.get(key)]
    return f'nobody has tried it with {found[0]}.' if found else None


def _device(runner: Runner) -> torch.device:
    return next(runner.model.parameters()).device


def _first_image(runner: Runner) -> Tensor | None:
    """Return an image as the nets see it, (C, H, W); None if there is no such thing."""
    with random_states_kept():
        item = runner.train_loop.dataloader.dataset[0]
    image = item.get('inputs') if isinstance(item, dict) else None
    if not isinstance(image, Tensor) or image.ndim != 3:
        return None
    # Which values it has does not matter, but very large ones would.
    return torch.linspace(-1, 1, image.numel()).view(image.shape).to(_device(runner))


def _mean(own: list[float]) -> list[float]:
    ranks = exchange(own)
    if not all(ranks):  # One could not try it.
        return []
    return [sum(times) / len(ranks) for times in zip(*ranks, strict=True)]
