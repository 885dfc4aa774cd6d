"""Compiled where torch.compile works, plain PyTorch where it does not."""

import logging
import types
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.utils import digit_version

from .errors import describe

# PyTorch 2.1 compiles a net with hooks to another net, without a word.
OLDEST = '2.4'

_COPIES = count()
_TOLD: set[str] = set()  # keys whose warning has been given in this process
_ANNOUNCED: set[str] = set()  # keys whose compilation has been announced

# PyTorch 2.1 cannot trace the function that asks.
is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)


def compiled(function: Callable, key: str, **options: Any) -> Callable:
    """Return ``function`` compiled at its first call, or run eagerly if that fails.

    Where compiling fails (no C++ compiler, no Triton, a system that torch.compile
    does not know), one warning a process names ``key``, and the function runs eagerly
    from then on. What the function raises eagerly too is no such failure: it is the
    caller's error and goes to the caller.

    Args:
        function (Callable): A function or a module.
        key (str): The setting that asked for it.
        **options: For :func:`torch.compile`.

    Returns:
        Callable: Takes what ``function`` takes; it can be copied and pickled, and
        compiles anew afterwards.
    """
    return _Compiled(function, key, options)


class _Compiled:
    def __init__(self, function: Callable, key: str, options: dict) -> None:
        self.function = function
        self.key = key
        self.options = options
        self._run: Callable | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():  # as part of something larger
            return self.function(*args, **kwargs)
        try:
            if self._run is None:
                self._announce()
                self._run = _compile(self.function, self.options)
            return self._run(*args, **kwargs)
        except Exception as error:
            if not _of_compiling(error):
                raise
            failure = error
        result = self.function(*args, **kwargs)
        self._run = self.function
        self._tell(failure)
        return result

    def _announce(self) -> None:
        """Say why nothing happens for a while."""
        if self.key not in _ANNOUNCED:
            _ANNOUNCED.add(self.key)
            print_log(f'{self.key}: compiling, which takes up to a minute', 'current')

    def _tell(self, failure: Exception) -> None:
        if self.key not in _TOLD:
            _TOLD.add(self.key)
            print_log(_warning(self.key, failure), 'current', logging.WARNING)

    def __getstate__(self) -> dict:
        return dict(vars(self), _run=None)


def _compile(function: Callable, options: dict) -> Callable:
    if digit_version(torch.__version__) < digit_version(OLDEST):
        raise RuntimeError(f'torch.compile is relied on from PyTorch {OLDEST} on')
    # Otherwise a net with other hooks than one compiled before would run without them.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    return torch.compile(_own(function), **options)


def _own(function: Callable) -> Callable:
    """Return a copy of a plain function, under a name of its own.

    PyTorch counts compilations by the code, and remembers by its name with which
    sizes it was called: what another loss was called with would make this one's sizes
    variable, and its loops half as fast.
    """
    if not isinstance(function, types.FunctionType):
        return function
    return types.FunctionType(
        function.__code__.replace(co_name=f'{function.__name__}_{next(_COPIES)}'),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def _of_compiling(error: Exception) -> bool:
    """Tell whether an error comes from compiling or what it calls."""
    makers = 'torch._dynamo', 'torch._inductor', 'triton'
    made = any(kind.__module__.startswith(makers) for kind in type(error).__mro__)
    text = str(error).lower()
    return made or 'compiler' in text or 'torch.compile' in text


def _warning(key: str, failure: Exception) -> str:
    reason = ' '.join(str(failure).split())[:200]
    return describe(
        key,
        True,
        f'Compiling failed ({type(failure).__name__}: {reason}).',
        'PyTorch goes on without, with equal results: install a C++ compiler (and '
        f'Triton for a GPU), or set {key}=False.',
    )
