"""What depends on whether and how torch.compile runs."""

from collections.abc import Callable

import torch

# PyTorch 2.1 traces none of the functions that ask.
is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)


def compiled(function: Callable, key: str, **options) -> Callable:
    """Return the function compiled by ``torch.compile``.

    Args:
        function (Callable): A function or a module.
        key (str): The config key that asked for it.
        **options: Of ``torch.compile``.
    """
    # Otherwise a net with other hooks than one compiled before would run without them.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    return torch.compile(function, **options)
