"""Compiled where that works, plain PyTorch where it does not."""

import logging
import types
from collections.abc import Callable
from itertools import count

import torch
from mmengine.logging import print_log
from mmengine.utils import digit_version
from torch import Tensor, nn

from ..ops.library import BuildError
from .errors import describe

# PyTorch 2.1 compiles a net with hooks to another net, without a word.
OLDEST = '2.4'

_COPIES = count()
_TOLD: set[str] = set()  # keys whose warning has been given in this process
_ANNOUNCED: set[str] = set()  # keys whose compilation has been announced
_SKIP_GLOBALS = getattr(torch.compiler, 'skip_guard_on_globals_unsafe', None)

# PyTorch 2.1 cannot trace the functions that ask.
is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)


def compiled(
    function: Callable | None,
    key: str,
    eager: Callable | None = None,
    native: Callable | None = None,
    **options,
) -> Callable:
    """Return ``function`` compiled at its first call, or run eagerly if that fails.

    Where compiling fails (no C++ compiler, no Triton, a system that torch.compile
    does not know), a warning that names ``key`` is given, once a process, and the next
    of native kernel, torch.compile and eager form runs from then on. What the eager
    form raises too is no such failure: it is the caller's error and goes to the caller.

    Args:
        function (Callable, optional): What torch.compile compiles: a function or a
            module. None to run ``eager`` where ``native`` does not.
        key (str): The setting that asked for it.
        eager (Callable, optional): What else gives the same. Defaults to
            ``function`` itself.
        native (Callable, optional): A kernel of :mod:`cakd_mm.ops` that gives the
            same of float32 tensors of the host, where it is preferred.
        **options: For :func:`torch.compile`.

    Returns:
        Callable: Takes what ``function`` takes; it can be copied and pickled, and
        compiles anew afterwards.
    """
    return _Compiled(function, key, eager or function, native, options)


class _Compiled:
    def __init__(
        self,
        function: Callable | None,
        key: str,
        eager: Callable,
        native: Callable | None,
        options: dict,
    ) -> None:
        self.function = function
        self.key = key
        self.eager = eager
        self.native = native
        self.options = options
        self._run: Callable | None = None
        self._unbuilt = self._failed = False  # of the native kernel, of torch.compile

    def __call__(self, *args, **kwargs):
        if is_compiling():  # as part of something larger
            return (self.function or self.eager)(*args, **kwargs)
        failure = None
        if self.native is not None and not self._unbuilt and _on_host(args):
            try:
                return self.native(*args, **kwargs)
            except BuildError as error:
                failure, self._unbuilt = error, True
        result, failed = self._without_native(args, kwargs)
        if failure or failed:
            self._tell(failed or failure)
        return result

    def _without_native(self, args: tuple, kwargs: dict) -> tuple:
        """Return the result, and why torch.compile has failed if it has just now."""
        if self.function is None or self._failed:
            return self.eager(*args, **kwargs), None
        try:
            if self._run is None:
                self._announce()
                self._run = _compile(self.function, self.options)
            return self._run(*args, **kwargs), None
        except Exception as error:
            if not _of_compiling(error):
                raise
            failure = error
        result = self.eager(*args, **kwargs)
        self._failed = True
        return result, failure

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
        return dict(vars(self), _run=None, _unbuilt=False, _failed=False)


def _on_host(args: tuple) -> bool:
    """Tell whether a native kernel can take these arguments."""
    tensors = [x for x in args if isinstance(x, Tensor)]
    # no fake ones of a tracing mode
    plain = all(type(x) is Tensor or type(x) is nn.Parameter for x in tensors)
    return (
        plain
        and tensors[0].dtype == torch.float32
        and all(x.device.type == 'cpu' for x in tensors)
    )


def _compile(function: Callable, options: dict) -> Callable:
    if digit_version(torch.__version__) < digit_version(OLDEST):
        raise RuntimeError(f'torch.compile is relied on from PyTorch {OLDEST} on')
    # Otherwise a net with other hooks than one compiled before would run without them.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    if isinstance(function, types.FunctionType) and _SKIP_GLOBALS is not None:
        # No step needs to ask whether modules and functions were replaced meanwhile.
        inner = dict(options.get('options') or {}, guard_filter_fn=_SKIP_GLOBALS)
        options = dict(options, options=inner)
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
