"""Modules that are imported only when something of them is used."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """Stands for a module, or for what somebody imports from it.

    Args:
        name (str): The module's full name.
        part (str, optional): What of it this stands for. Defaults to None, the module.
    """

    def __init__(self, name: str, part: str | None = None) -> None:
        super().__init__(name)
        self.part = part

    def _genuine(self) -> Any:
        module = importlib.import_module(self.__name__)
        return module if self.part is None else getattr(module, self.part)

    def __getattr__(self, name: str) -> Any:
        """Import it, unless ``from ... import name`` asks: that is deferred, too."""
        if sys.modules.get(self.__name__) is not self:
            return getattr(self._genuine(), name)
        if name.startswith('__'):  # The import asks for `__path__`, for instance.
            raise AttributeError(name)
        return Deferred(self.__name__, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what this stands for."""
        return self._genuine()(*args, **kwargs)


@contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Let those who import these modules meanwhile get a stand-in.

    It serves attributes of the module, and what is called or whose attributes are read;
    a class is no class for ``isinstance``. A module that is there already stays.
    """
    modules: dict[str, Any] = sys.modules
    stand_ins = {name: Deferred(name) for name in names if name not in modules}
    modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del modules[name]
