"""A copy of a net that returns what its modules took and gave, and no hooks in it."""

from collections import OrderedDict
from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from mmengine.utils import apply_to
from torch import Tensor, nn

# Name of a module, its inputs and its output.
Call = tuple[str, tuple, Any]


class TappedNet(nn.Module):
    """Runs a net on images; returns its output and the calls of named modules.

    The hooks that others put on the net would run inside of the compiled graph, where
    only some of what they may do is allowed. The graph has more outputs instead, from
    which :func:`replay` tells the hooks.

    Args:
        net (nn.Module): A classifier; ``mode='tensor'`` runs it.
        names (Iterable[str]): Its modules whose calls are returned, in the order in
            which they end.
        dtype (torch.dtype): What the net computes in; images are cast to it, and all
            that is returned is cast back.
    """

    def __init__(self, net: nn.Module, names: Iterable[str], dtype: torch.dtype):
        super().__init__()
        self.net = net
        self.dtype = dtype
        self.calls: list[Call] = []
        self.taps = [
            net.get_submodule(name).register_forward_hook(partial(self._keep, name))
            for name in names
        ]

    def untap(self) -> None:
        """Leave the net as it was."""
        for tap in self.taps:
            tap.remove()

    def _keep(self, name: str, module: nn.Module, inputs: tuple, output: Any) -> None:
        self.calls.append((name, inputs, output))

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Call]]:
        """Run the net on images (N, C, H, W)."""
        output = self.net(inputs.to(self.dtype), mode='tensor')
        calls, self.calls = self.calls, []
        if self.dtype == inputs.dtype:
            return output, calls
        return apply_to((output, calls), _is_float, lambda x: x.to(inputs.dtype))


def _is_float(data: Any) -> bool:
    return isinstance(data, Tensor) and data.is_floating_point()


def floats_of(data: Any) -> list[Tensor]:
    """Return all tensors of floats in nested tuples, lists and dicts."""
    found: list[Tensor] = []
    apply_to(data, _is_float, found.append)
    return found


def hooks_of(net: nn.Module) -> dict[str, tuple[dict, dict]]:
    """Return the hooks before and after each module's forward, by its name."""
    return {
        name: (module._forward_pre_hooks, module._forward_hooks)
        for name, module in net.named_modules()
    }


def copy_without_hooks(net: nn.Module) -> nn.Module:
    """Return a copy of a net without the hooks of its forward pass.

    Hooks belong to recorders, which therefore are not copied either.
    """
    none = {
        id(hooks): OrderedDict() for pair in hooks_of(net).values() for hooks in pair
    }
    return deepcopy(net, none)


def replay(net: nn.Module, calls: Iterable[Call]) -> None:
    """Tell the hooks of a net's modules what was taken and given in its copy."""
    for name, inputs, output in calls:
        module = net.get_submodule(name)
        for key, hook in module._forward_pre_hooks.items():
            keywords = ({},) if key in module._forward_pre_hooks_with_kwargs else ()
            hook(module, inputs, *keywords)
        for key, hook in module._forward_hooks.items():
            keywords = ({},) if key in module._forward_hooks_with_kwargs else ()
            hook(module, inputs, *keywords, output)
