"""torch.compile where it works, and plain PyTorch where it does not."""

import logging
import os
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.utils import digit_version
from torch import nn

from .errors import describe, start_of
from .ownership import distrust

# PyTorch 2.1 gives wrong results for a compiled net with hooks, without a warning.
OLDEST = '2.4'
CACHE = 'TORCHINDUCTOR_CACHE_DIR'

_COPIES = count()
_LOGGED: set[tuple[str, int]] = set()  # keys and levels of this process's messages

# PyTorch 2.1 lacks this function.
is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)

# PyTorch 2.5 lacks this one, which lets whatever was compiled run as it was written.
_set_stance = getattr(torch.compiler, 'set_stance', nullcontext)


def is_compiled(module: nn.Module) -> bool:
    """Return whether torch.compile was applied to a module, or to its forward."""
    forward = vars(module).get('forward')
    form = module._compiled_call_impl
    return form is not None or hasattr(forward, '_torchdynamo_orig_callable')


@contextmanager
def eagerly(net: nn.Module) -> Iterator[None]:
    """Run a net's modules as they were written, also those that are compiled."""
    forms = {m: m._compiled_call_impl for m in net.modules() if m._compiled_call_impl}
    for module in forms:
        module._compiled_call_impl = None
    try:
        with _set_stance('force_eager'):
            yield
    finally:
        for module, form in forms.items():
            module._compiled_call_impl = form


def compiled(
    function: Callable, key: str, largest_alone: bool = False, **options: Any
) -> Callable:
    """Return ``function`` compiled at its first call, or run eagerly if that fails.

    If compiling fails (no C++ compiler, no Triton, a system that torch.compile does
    not know), one warning per process names ``key``, and the function runs eagerly
    from then on. So it does if others can write the folder of compiled code. An error
    that the function also raises eagerly goes to the caller.

    Args:
        function (Callable): A function or a module.
        key (str): The setting that asked for it.
        largest_alone (bool): Whether a call whose first tensor has fewer rows than
            that of a call before (the last batch of an epoch) runs eagerly, because
            PyTorch would compile again, to slower code for batches of any size.
            Defaults to False.
        **options: For :func:`torch.compile`.

    Returns:
        Callable: Takes what ``function`` takes. It can be copied and pickled; a copy
        compiles again.
    """
    return _Compiled(function, key, largest_alone, options)


class _Compiled:
    def __init__(
        self, function: Callable, key: str, largest_alone: bool, options: dict
    ) -> None:
        self.function = function
        self.key = key
        self.largest_alone = largest_alone
        self.options = options
        self._run: Callable | None = None
        self._rows = 0  # of the largest call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():  # a larger function of which this one is part
            return self.function(*args, **kwargs)
        if self.largest_alone:
            rows = len(args[0])
            if rows < self._rows:
                return self.function(*args, **kwargs)
            if rows > self._rows:
                self._run, self._rows = None, rows
        try:
            if self._run is None:
                text = f'{self.key}: compiling, which takes up to a minute'
                _log_once(self.key, text, logging.INFO)
                self._run = _compile(self.function, self.options)
            return self._run(*args, **kwargs)
        except Exception as error:
            if not _of_compiling(error):
                raise
            failure = error
        result = self.function(*args, **kwargs)
        self._run = self.function
        _log_once(self.key, _warning(self.key, failure), logging.WARNING)
        return result

    def __getstate__(self) -> dict:
        return dict(vars(self), _run=None, _rows=0)


def _log_once(key: str, text: str, level: int) -> None:
    if (key, level) not in _LOGGED:
        _LOGGED.add((key, level))
        print_log(text, 'current', level)


def _compile(function: Callable, options: dict) -> Callable:
    if digit_version(torch.__version__) < digit_version(OLDEST):
        raise RuntimeError(f'torch.compile is relied on from PyTorch {OLDEST} on')
    # Otherwise a net would run without its hooks if it was compiled before with others.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    check_cache()
    return torch.compile(_renamed(function), **options)


def why_not_compile(device: torch.device) -> str | None:
    """Return what keeps torch.compile from working here, None if nothing does.

    A sum of a few numbers is compiled, because only that uses all that is needed: this
    PyTorch, a compiler and the folder of compiled code. It takes some seconds, which a
    net that is compiled later then saves.
    """
    try:
        # Two numbers, because PyTorch would compile nothing for a constant.
        _compile(lambda x: x + 1, {})(torch.ones(2, device=device))
    except Exception as error:
        if not _of_compiling(error):
            raise
        return f'{_said_by_torch(error)}.'
    return None


class _UnsafeCacheError(RuntimeError):
    """Other users can write the code that torch.compile would run."""


def check_cache() -> None:
    """Make the folder of compiled code, which has to be this user's alone.

    By default it lies in the system's temporary folder under a name that can be
    guessed, where another user may have made it first.

    Raises:
        RuntimeError: naming the folder and what to type.
    """
    from torch._inductor.runtime.runtime_utils import default_cache_dir

    with suppress(KeyError, OSError):  # no name of the user, no rights: torch says so
        folder = Path(os.environ.get(CACHE) or default_cache_dir())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if found := distrust(folder):
            problem, remedy = found
            problem += ' torch.compile would run the code in it.'
            raise _UnsafeCacheError(describe(CACHE, str(folder), problem, remedy))


def _renamed(function: Callable) -> Callable:
    """Return a copy of a plain function whose code has another name.

    PyTorch counts compilations by code and remembers sizes by its name. Without the
    copy, the sizes of one loss would make those of another variable, and its loops
    half as fast.
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
    """Return whether an error comes from compiling or what it calls."""
    makers = 'torch._dynamo', 'torch._inductor', 'triton'
    made = any(kind.__module__.startswith(makers) for kind in type(error).__mro__)
    text = str(error).lower()
    return made or 'compiler' in text or 'torch.compile' in text


def _said_by_torch(failure: Exception) -> str:
    """Return what failed, without torch's advice to those who mend torch."""
    return start_of(str(failure).strip().partition('\n\n')[0], 200)


def _warning(key: str, failure: Exception) -> str:
    if isinstance(failure, _UnsafeCacheError):
        return f'{failure} PyTorch goes on without compiling, with equal results.'
    reason = f'{type(failure).__name__}: {_said_by_torch(failure)}'
    return describe(
        key,
        True,
        f'Compiling failed ({reason}).',
        'PyTorch goes on without, with equal results: install a C++ compiler (and '
        f'Triton for a GPU), or set {key}=False.',
    )
