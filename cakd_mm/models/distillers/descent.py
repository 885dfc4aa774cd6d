"""Follows what is computed from a net's trainable parameters."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..recorders.watched import tensors_of


class Descent(TorchDispatchMode):
    """Knows, while it is on, which tensors come from some parameters.

    The graph of gradients cannot tell, because it ends where a tensor is detached.
    Memory is what is followed, so that ``x.data`` comes from them where ``x`` does.

    Args:
        parameters (Iterable[Tensor]): The parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self._places = {_place(parameter) for parameter in parameters}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Compute, and note where the results lie."""
        result = func(*args, **(kwargs or {}))
        places = {_place(tensor) for tensor in tensors_of(result)}
        if self.includes(tensors_of((args, kwargs))):
            self._places |= places
        else:  # Memory that was used before may hold something else now.
            self._places -= places
        return result

    def includes(self, tensors: Iterable[Tensor]) -> bool:
        """Tell whether one of the tensors comes from the parameters."""
        return any(_place(tensor) in self._places for tensor in tensors)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
