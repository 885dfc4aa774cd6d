"""Runs a net so that the inputs and outputs of its modules are returned as well."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...tasks import task_of
from ..checks import is_float_tensor

# The name of a module, its inputs, those that it is given by name, and its output.
Call = tuple[str, tuple, dict[str, Any], Any]


class TappedNet(nn.Module):
    """Runs a net on images; returns its output and the calls of named modules.

    Hooks cannot stay on a net that is compiled, because a compiled graph allows only
    some of what they may do. The graph returns inputs and outputs of the modules
    instead, and :func:`replay` passes them to the hooks.

    Args:
        net (nn.Module): A classifier; ``mode='tensor'`` runs it.
        names (Iterable[str]): Its modules whose calls are returned, in the order in
            which they end.
        dtype (torch.dtype): What the net computes in. Images are cast to it, and all
            that is returned is cast back.
    """

    def __init__(
        self, net: nn.Module, names: Iterable[str], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.net = net
        self.dtype = dtype
        self.calls: list[Call] = []
        self.taps = [
            net.get_submodule(name).register_forward_hook(
                partial(self._add_call, name), with_kwargs=True
            )
            for name in names
        ]

    def untap(self) -> None:
        """Leave the net as it was."""
        for tap in self.taps:
            tap.remove()

    def _add_call(
        self,
        name: str,
        module: nn.Module,
        inputs: tuple,
        options: dict[str, Any],
        output: Any,
    ) -> None:
        self.calls.append((name, inputs, options, output))

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Call]]:
        """Run the net on images (N, C, H, W)."""
        output = task_of(self.net).outputs(self.net, inputs.to(self.dtype))
        calls, self.calls = self.calls, []
        if self.dtype == inputs.dtype:
            return output, calls
        return apply_to((output, calls), is_float_tensor, lambda x: x.to(inputs.dtype))


def floats_of(data: Any) -> list[Tensor]:
    """Return all float tensors in nested tuples, lists and dicts."""
    found: list[Tensor] = []
    apply_to(data, is_float_tensor, found.append)
    return found


def hooks_of(net: nn.Module) -> dict[str, tuple[dict, dict]]:
    """Return the hooks before and after each module's forward, by its name."""
    return {
        name: (module._forward_pre_hooks, module._forward_hooks)
        for name, module in net.named_modules()
    }


def copy_without_hooks(net: nn.Module) -> nn.Module:
    """Return a copy of a net without the hooks of its forward pass.

    The recorders that own the hooks are not copied either, because only hooks lead to
    them.
    """
    # deepcopy takes what stands here for copies that it has made already.
    copies: dict[int, Any] = {
        id(hooks): OrderedDict() for pair in hooks_of(net).values() for hooks in pair
    }
    return deepcopy(net, copies)


def copy_in(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a net without hooks, whose weights are of another type.

    Those of normalisation stay in float32.
    """
    copied = copy_without_hooks(net)
    if dtype != torch.float32:
        copied.to(dtype)
        for module in copied.modules():
            if isinstance(module, _BatchNorm):
                module.float()
    return copied


def replay(net: nn.Module, calls: Iterable[Call]) -> None:
    """Call the hooks of a net's modules with the inputs and outputs of its copy."""
    hook: Callable
    for name, inputs, options, output in calls:
        module = net.get_submodule(name)
        for key, hook in module._forward_pre_hooks.items():
            with_kwargs = key in module._forward_pre_hooks_with_kwargs
            hook(module, inputs, *([options] if with_kwargs else []))
        for key, hook in module._forward_hooks.items():
            with_kwargs = key in module._forward_hooks_with_kwargs
            hook(module, inputs, *([options] if with_kwargs else []), output)
