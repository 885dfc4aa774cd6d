"""Copies of modules and data that share nothing that a computation could change."""

import io
import pickle
from collections import OrderedDict
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn


def snapshot(data: Any) -> Any:
    """Return a copy with tensors of its own, which have no graph.

    Tensors are found at any depth of containers and attributes; ``copy.deepcopy``
    refuses those with a graph. Modules lose the hooks of their forward. Functions and
    classes are shared.

    Args:
        data (Any): A module, or data that may hold modules and tensors.

    Raises:
        Exception: what pickle raises for locks, generators and their kind.
        PicklingError: a method was replaced on a module, where it is bound to it.
    """
    buffer = io.BytesIO()
    writer = _Writer(buffer)
    writer.dump(data)
    buffer.seek(0)
    reader = _Reader(buffer)
    reader.copies = writer.copies
    return reader.load()


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        # The originals are kept, because the id of what is gone may be used again.
        self.originals: list[Any] = []
        self.copies: dict[int, Any] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """Return the key of what is not pickled, but copied here or shared."""
        if isinstance(obj, nn.Module):
            _refuse_replaced_methods(obj)
            hooks = obj._forward_hooks, obj._forward_pre_hooks
            self.copies |= {id(each): OrderedDict() for each in hooks}
        if id(obj) not in self.copies:
            if isinstance(obj, Tensor):
                copy: Any = obj.detach().clone()
                if isinstance(obj, nn.Parameter):
                    copy = nn.Parameter(copy, obj.requires_grad)
            elif isinstance(obj, (FunctionType, ModuleType, type)):
                copy = obj
            else:
                return None
            self.copies[id(obj)] = copy
            self.originals.append(obj)
        return id(obj)


class _Reader(pickle.Unpickler):
    copies: dict[int, Any]

    def persistent_load(self, pid: int) -> Any:
        """Return what stands for a key."""
        return self.copies[pid]


def _refuse_replaced_methods(module: nn.Module) -> None:
    for name, value in vars(module).items():
        # A module leaves its compiled form out of its copies by itself.
        is_method = callable(value) and callable(getattr(type(module), name, None))
        if is_method and name != '_compiled_call_impl':
            kind = type(module).__name__
            raise pickle.PicklingError(f'{kind}.{name} was replaced on the module')
