"""Whether a run's nets can be computed faster, and whether that pays here."""

import logging
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from ...models.algorithms import FrozenTeacherDistill
from ...models.runtime import (
    PAYS,
    convolution_seconds,
    seconds_per_image,
    unreached,
)
from ...utils.agreement import exchange
from ...utils.arguments import class_of
from ...utils.compiling import why_not_compile
from ...utils.model import unwrap
from ...utils.random_states import random_states_kept
from ..hooks import StudentRuntimeHook
from ..optimizers import BF16OptimWrapper
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


def why_no_compiled_student(runner: Runner, hooks: Mapping[str, Any]) -> str | None:
    """Return what keeps the student's backbone from being compiled.

    Args:
        runner (Runner): The runner.
        hooks (Mapping): ``default_hooks`` as the config has them.
    """
    model = unwrap(runner.model)
    net = getattr(model, 'student', model)
    is_set = any(isinstance(hook, StudentRuntimeHook) for hook in runner.hooks)
    if is_set or 'student_runtime' in hooks:
        return 'the config sets default_hooks.student_runtime.'
    if not _is_classifier(net) or not hasattr(net, 'backbone'):
        return f'{type(net).__name__} is no classifier with a backbone.'
    return _untried(runner.cfg)


def why_no_bf16_student(runner: Runner) -> str | None:
    """Return what keeps the student from being trained in bf16."""
    wrapper = runner.cfg.get('optim_wrapper') or {}
    if wrapper.get('type', OPTIM_WRAPPER) != OPTIM_WRAPPER:
        return 'the config, or --amp, sets optim_wrapper.type.'
    if 'optimizer' not in wrapper:
        return 'the config has no single optimizer.'
    device = _device(runner)
    if device.type in WITHOUT_AMP:
        return f"mmengine's mixed precision does not know this device, {device.type}."
    return None


def computes_in_half(cfg: Config) -> bool:
    """Return whether the config trains in mixed precision."""
    wrapper = {'type': OPTIM_WRAPPER, **(cfg.get('optim_wrapper') or {})}
    kind = class_of(wrapper, OPTIM_WRAPPERS, 'optim_wrapper')
    return isinstance(kind, type) and issubclass(
        kind, (AmpOptimWrapper, BF16OptimWrapper)
    )


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
        figures = f'{what} takes {1e3 * half:.2f} ms in bf16 and {1e3 * plain:.2f} ms '
        return plain / half >= PAYS, f'{figures}in float32'

    @cached_property
    def _of_nets(self) -> dict[str, list[float]]:
        """Seconds for an image by net, in each type; none where it cannot be tried."""
        model, image = unwrap(self.runner.model), _first_image(self.runner)
        nets: dict[str, nn.Module] = {'student': getattr(model, 'student', model)}
        if isinstance(model, FrozenTeacherDistill) and not model.teacher_is_shared_out:
            nets['teacher'] = model.teacher
        found = {}
        for name, net in nets.items():
            own: list[float] = []
            if image is not None and (name == 'teacher' or _is_classifier(net)):
                shown = image
                if name == 'teacher':
                    shown = model.teacher_inputs(image[None])[0]
                own = self._of_net(net, shown, name == 'student')
            found[name] = _mean(own)
        return {name: times for name, times in found.items() if times}

    def _of_net(self, net: nn.Module, image: Tensor, trains: bool) -> list[float]:
        """Return seconds for an image; none if the net by itself takes no images."""
        try:
            return seconds_per_image(net, image, self._batch_size, trains, *self.dtypes)
        except Exception as error:  # A net may need anything.
            text = f'{type(net).__name__} was not timed: {error}'
            print_log(text, 'current', logging.INFO)
            return []

    @cached_property
    def _batch_size(self) -> int:
        loader = self.runner.train_loop.dataloader
        size = getattr(loader.batch_sampler, 'batch_size', None) or 1
        inputs = _first_inputs(self.runner)
        return size * (len(inputs) if isinstance(inputs, list) else 1)  # of views

    def _seconds_of_run(self) -> float | None:
        """Return what all steps take without being compiled, None if it is unknown."""
        steps = getattr(self.runner.train_loop, 'max_iters', None)
        if 'student' not in self._of_nets or steps is None:
            return None
        step = self._batch_size * sum(times[0] for times in self._of_nets.values())
        return steps * step


def _is_classifier(net: nn.Module) -> bool:
    return isinstance(net, BaseClassifier)


def _untried(cfg: Config) -> str | None:
    found = [key for key in UNTRIED if cfg.get(key)]
    return f'nobody has tried it together with {found[0]}.' if found else None


def _device(runner: Runner) -> torch.device:
    return next(runner.model.parameters()).device


def _first_image(runner: Runner) -> Tensor | None:
    """Return an image as the nets see it, (C, H, W); None if there is no such thing."""
    image = _first_inputs(runner)
    if isinstance(image, list):  # of views
        image = image[0]
    if not isinstance(image, Tensor) or image.ndim != 3:
        return None
    # Which values it has does not matter, but very large ones would.
    return torch.linspace(-1, 1, image.numel()).view(image.shape).to(_device(runner))


def _first_inputs(runner: Runner) -> Any:
    """Return what the first item holds for the nets; None if there is no such thing."""
    dataset = runner.train_loop.dataloader.dataset
    if isinstance(dataset, IterableDataset):
        return None
    with random_states_kept():
        item = dataset[0]
    return item.get('inputs') if isinstance(item, dict) else None


def _mean(own: list[float]) -> list[float]:
    ranks = exchange(own)
    if not all(ranks):  # One could not try it.
        return []
    return [sum(times) / len(ranks) for times in zip(*ranks, strict=True)]
