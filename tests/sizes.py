"""How large the tensors are that some code makes."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Sizes(TorchDispatchMode):
    """The bytes of the largest tensor that is made; views and changes make none."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {memory_of(x) for x in tensors_of((args, kwargs))}
        new = [x for x in tensors_of(made) if memory_of(x) not in given]
        self.largest = max([self.largest, *(x.nbytes for x in new)])
        return made


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """Return all tensors among arguments or results."""
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def memory_of(tensor: torch.Tensor) -> int:
    """Return where the memory of a tensor begins."""
    return tensor.untyped_storage().data_ptr()
