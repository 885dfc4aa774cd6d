"""A net that returns what its modules took and gave, for hooks to be told later."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Name of a module, its inputs and its output.
Call = tuple[str, tuple, Any]


class TappedNet(nn.Module):
    """Runs a net on images; returns its output and the calls of named modules.

    Hooks on the net itself would run inside of a compiled graph, where only some of
    what they may do is allowed. Here the graph just has more outputs.

    Args:
        net (nn.Module): A classifier, to be compiled one without hooks;
            ``mode='tensor'`` runs it.
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
        back = partial(_cast, dtype=inputs.dtype)
        return _map(back, output), [
            (name, _map(back, taken), _map(back, given)) for name, taken, given in calls
        ]


def hooked(net: nn.Module) -> set[str]:
    """Return the names of the modules that have forward hooks, or hooks before it."""
    return {
        name
        for name, module in net.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    }


def without_hooks(net: nn.Module) -> nn.Module:
    """Remove all hooks of a forward pass from a net; return it."""
    for module in net.modules():
        for kind in ('hooks', 'hooks_with_kwargs', 'hooks_always_called'):
            getattr(module, f'_forward_{kind}', {}).clear()
        module._forward_pre_hooks.clear()
        getattr(module, '_forward_pre_hooks_with_kwargs', {}).clear()
    return net


def replay(net: nn.Module, calls: Iterable[Call]) -> None:
    """Tell the hooks of a net's modules what was seen in another one like it."""
    for name, inputs, output in calls:
        module = net.get_submodule(name)
        for key, hook in module._forward_pre_hooks.items():
            if key in module._forward_pre_hooks_with_kwargs:
                hook(module, inputs, {})
            else:
                hook(module, inputs)
        for key, hook in module._forward_hooks.items():
            if key in module._forward_hooks_with_kwargs:
                hook(module, inputs, {}, output)
            else:
                hook(module, inputs, output)


def tensors_of(data: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and dicts."""
    found: list[Tensor] = []
    _map(found.append, data)
    return found


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _map(function: Callable[[Tensor], Any], data: Any) -> Any:
    """Apply a function to every tensor in nested tuples, lists and dicts."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, (tuple, list)):
        mapped = [_map(function, item) for item in data]
        return tuple(mapped) if isinstance(data, tuple) else mapped
    if isinstance(data, dict):
        return {key: _map(function, item) for key, item in data.items()}
    return data
