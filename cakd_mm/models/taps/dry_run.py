"""Runs a net once on two random images, to see what its modules give."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ...tasks import task_of
from ...utils.compiling import eagerly
from ...utils.errors import start_of
from ...utils.model import in_eval
from ...utils.random_states import random_states_kept
from .point import Point

# Enough to tell the dimension of the batch from the others.
IMAGES = 2
# Sizes of images on which a net is tried that does not tell its own. The first makes
# maps of different sizes of nets that halve an image five times, and is fast.
SIZES = (64, 224, 32, 28, 96, 128, 48, 16, 256, 299, 384)
# What nets call the size of their images.
OWN_SIZES = ('img_size', 'image_size', 'input_size')


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a module.

    Args:
        path (str): Name of the module.
        inputs (tuple): The positional inputs in outline, see :class:`Outlines`; those
            by keyword if there are no others.
        output: What it gave, in outline.
    """

    path: str
    inputs: tuple
    output: Any


@dataclass(eq=False)
class DryRun:
    """What a net has computed of random images.

    Args:
        calls (list[Call]): In the order in which they ended; none if the net could not
            be run.
        images (Tensor, optional): The images, (2, C, H, W). Defaults to None.
        output: What the net gave, in outline. Defaults to None.
        failure (str): Why the net could not be run; '' if it could.

    Attributes:
        points (dict): The places that were found in it, by name; None if they were not
            looked for yet.
    """

    calls: list[Call] = field(default_factory=list)
    images: Tensor | None = None
    output: Any = None
    failure: str = ''
    points: dict[str, Point] | None = field(default=None, init=False)

    def calls_of(self, path: str) -> list[Call]:
        """Return the calls of a module."""
        return [call for call in self.calls if call.path == path]

    def within(self, path: str) -> 'DryRun':
        """Return what a part of the net has computed, as if it were the net.

        Its own calls have the path ``''``, and its output is that of the last one.
        """
        start = f'{path}.'
        calls = [
            replace(call, path=call.path[len(start) :])
            for call in self.calls
            if f'{call.path}.'.startswith(start)
        ]
        output = calls[-1].output if calls else None
        return DryRun(calls, self.images, output, self.failure)


_RUNS: WeakKeyDictionary[nn.Module, DryRun] = WeakKeyDictionary()


def dry_run(net: nn.Module) -> DryRun:
    """Run a net once in ``mode='tensor'``; the next time return the same.

    It runs eagerly, in eval mode, without gradients, on the first size of images that
    it takes. Its buffers, its mode and all random states are afterwards as before.

    Args:
        net (nn.Module): A net of mmengine. It is not wrapped for several processes.

    Returns:
        DryRun: What its modules gave. It is no error if the net does not run, because a
        config may do without.
    """
    if net not in _RUNS:
        _RUNS[net] = _run(net)
    return _RUNS[net]


def forget_dry_run(net: nn.Module) -> None:
    """Let the next :func:`dry_run` run a net again, because it was changed."""
    _RUNS.pop(net, None)


class Outlines:
    """Gives data in outline: large tensors are replaced by their shapes.

    A tensor has the same outline wherever it appears, so that ``is`` tells which module
    has given what is in the output of another one.
    """

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def of(self, data: Any) -> Any:
        """Return data in outline.

        Vectors (N, C) and maps of one position stay. A large tensor becomes one on the
        device ``meta``, which has a shape and no numbers. What is neither a tensor nor
        in a tuple, a list or a mapping becomes None.
        """
        if isinstance(data, Tensor):
            return self._of_tensor(data)
        if isinstance(data, Mapping):
            return {name: self.of(value) for name, value in data.items()}
        if isinstance(data, (tuple, list)):
            return tuple(self.of(value) for value in data)
        return None

    def _of_tensor(self, tensor: Tensor) -> Tensor:
        known = self._known.get(tensor)
        # What is done in place may give a tensor another shape.
        if known is not None and known.shape == tensor.shape:
            return known
        data = tensor.detach()
        is_vector = data.dim() > 1 and data.numel() == data.shape[0] * data.shape[1]
        self._known[tensor] = data if is_vector else data.to('meta')
        return self._known[tensor]


def _run(net: nn.Module) -> DryRun:
    failures = []
    for images in _trials(net):
        calls: list[Call] = []
        outlines = Outlines()
        note = partial(_note, calls, outlines)
        hooks = [
            module.register_forward_hook(partial(note, path), with_kwargs=True)
            for path, module in net.named_modules()
        ]
        try:
            with (
                in_eval(net),
                _buffers_kept(net),
                eagerly(net),
                random_states_kept(net.parameters()),
                torch.no_grad(),
            ):
                output = task_of(net).outputs(net, images)
            return DryRun(calls, images, outlines.of(output))
        except Exception as error:  # of whatever kind a net's own code raises
            failures.append(start_of(error, 200) or type(error).__name__)
        finally:
            for hook in hooks:
                hook.remove()
    return DryRun(failure=failures[0] if failures else 'it has no weights')


@contextmanager
def _buffers_kept(net: nn.Module) -> Iterator[None]:
    """Let a net compute with copies of its buffers.

    To write the old values back would not do, because autograd refuses buffers that
    were written to between a forward and its backward.
    """
    own = [(module, dict(module._buffers)) for module in net.modules()]
    copies = {buffer: buffer.clone() for buffer in net.buffers()}
    try:
        for module, buffers in own:
            for name, buffer in buffers.items():
                if buffer is not None:
                    module._buffers[name] = copies[buffer]
        yield
    finally:
        for module, buffers in own:
            module._buffers.update(buffers)


def _note(
    calls: list[Call],
    outlines: Outlines,
    path: str,
    module: nn.Module,
    inputs: tuple,
    options: Mapping[str, Any],
    output: Any,
) -> None:
    inputs = inputs or tuple(options.values())
    calls.append(Call(path, outlines.of(inputs), outlines.of(output)))


def _trials(net: nn.Module) -> Iterator[Tensor]:
    """Yield random images of the sizes that a net may take, its own first."""
    weight = next((x for x in net.parameters() if x.is_floating_point()), None)
    if weight is None:
        return
    first = next((x for x in net.modules() if isinstance(x, nn.Conv2d)), None)
    # A net may cut images into patches before its first convolution.
    channels = dict.fromkeys((first.in_channels if first is not None else 3, 3))
    sizes = dict.fromkeys([*_own_sizes(net), *((x, x) for x in SIZES)])
    generator = torch.Generator().manual_seed(0)
    for count, size in product(channels, sizes):
        images = torch.randn(IMAGES, count, *size, generator=generator)
        yield images.to(weight.device, weight.dtype)


def _own_sizes(net: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield the sizes that modules of a net say, or their configs."""
    for module in net.modules():
        for holder in (module, getattr(module, 'config', None)):
            for name in OWN_SIZES:
                found = getattr(holder, name, None)
                size = (found, found) if isinstance(found, int) else found
                if isinstance(size, (tuple, list)) and len(size) == 2:
                    height, width = size
                    if isinstance(height, int) and isinstance(width, int):
                        yield height, width
