"""Compilation that leaves a run as it is where there is no compiler."""

from collections.abc import Callable

import torch


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
