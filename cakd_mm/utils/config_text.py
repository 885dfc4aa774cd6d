"""Reads the text of a config as data: it is parsed and never run.

The text stands in a checkpoint, which may come from outside.
"""

import ast
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

# What mmengine writes is no config, or is too deeply nested to be one.
FAULTS = (SyntaxError, TypeError, ValueError, RecursionError, MemoryError)


def written(text: Any, name: str) -> str | None:
    """Return what a config's text assigns to a name, as text."""
    node = _assigned(text).get(name)
    return None if node is None else ast.unparse(node)


def values_in(text: Any) -> dict[str, Any]:
    """Return the values that a config's text assigns, by name.

    A call of ``dict`` is a dict. What only code could make is None, as an entry or as
    the whole of a dict that has a key of that kind. A text that is no config's has no
    values.
    """
    with suppress(*FAULTS):
        return {name: _value(node) for name, node in _assigned(text).items()}
    return {}


def _assigned(text: Any) -> dict[str, ast.expr]:
    with suppress(*FAULTS):
        return {
            node.targets[0].id: node.value
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
    return {}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict':
        # A name that is no identifier makes mmengine write dict({...}).
        first = _value(node.args[0]) if node.args else {}
        named = {x.arg: _value(x.value) for x in node.keywords}
        return {**first, **named} if isinstance(first, dict) else None
    if isinstance(node, ast.Dict):
        keys = [key and _value(key) for key in node.keys]
        if not all(isinstance(key, Hashable) for key in keys):
            return None
        return dict(zip(keys, map(_value, node.values), strict=True))
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(part) for part in node.elts]
    with suppress(*FAULTS):
        return ast.literal_eval(node)
    return None
