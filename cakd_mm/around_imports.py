"""Something that is done around the import of a module, whoever imports it."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Contexts = dict[str, Callable[[ModuleType], AbstractContextManager]]


class AroundImports(MetaPathFinder):
    """Lets modules be found as ever, and be executed within a context each.

    Args:
        contexts (dict[str, Callable]): By the full name of a module, what makes its
            context of the module, which is still empty when the context is entered.
    """

    def __init__(self, contexts: Contexts) -> None:
        self.contexts = contexts

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return what the finders after this one find; None for other modules."""
        if name not in self.contexts:
            return None
        after = sys.meta_path[sys.meta_path.index(self) + 1 :]
        others = (x.find_spec(name, path, target) for x in after)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = self._within(self.contexts[name], loader.exec_module)
        return spec

    @staticmethod
    def _within(context: Callable, genuine: Callable) -> Callable:
        def exec_module(module: ModuleType) -> None:
            with context(module):
                genuine(module)

        return exec_module


def around_imports(contexts: Contexts) -> AroundImports:
    """Do something around imports from now on.

    For a module that has been imported already, its context is entered and left at
    once. Each call adds a finder, which is returned: without it in ``sys.meta_path``
    imports are as before.

    Args:
        contexts (dict[str, Callable]): As of :class:`AroundImports`.
    """
    finder = AroundImports(contexts)
    sys.meta_path.insert(0, finder)
    for name, context in contexts.items():
        if module := sys.modules.get(name):
            with context(module):
                pass
    return finder
