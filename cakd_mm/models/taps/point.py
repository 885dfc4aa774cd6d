"""A place in a net."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Point:
    """A place in a net.

    Args:
        module (str): Name of the module.
        takes_input (bool): Whether the place is the input of the module's last call in
            a forward, instead of its output. Defaults to False.
        channels (int, optional): Width of what is there. Defaults to None (unknown).
        call (int, optional): Which call of the module in a forward is meant, if the
            place is an output. Defaults to None (a recorder is asked for one).
        extra_tokens (int): How many class and register tokens come first in what is
            there. Defaults to 0.
        classes (int, optional): Of a map of scores, how many channels score the same
            box or pixel. Defaults to None (it is no such map).
        take (Callable, optional): What makes the tensor that the place is named after
            of the module's input or output. Defaults to None (it is that tensor).
        prepare (Callable, optional): What has to be done to the net before it is taught
            there. Defaults to None.
    """

    module: str
    takes_input: bool = False
    channels: int | None = None
    call: int | None = None
    extra_tokens: int = 0
    classes: int | None = None
    take: Callable[[Any], Any] | None = None
    prepare: Callable[[nn.Module], None] | None = None
