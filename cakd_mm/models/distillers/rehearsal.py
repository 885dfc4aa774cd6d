"""Runs a net once more, only to see what its recorders record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmrazor.models.task_modules import RecorderManager
from torch import nn

from ...utils.compiling import eagerly
from ...utils.model import in_eval
from ...utils.random_states import torch_states_kept
from ..recorders.watched import watch_of


@contextmanager
def rehearsed(
    net: nn.Module, recorders: RecorderManager, run: Callable[[], object]
) -> Iterator[None]:
    """Let recorders hold what a net gives when it runs eagerly and in eval mode.

    Afterwards they hold again what they held before. The statistics of the net's
    normalisation and the state of the random generators stay as they are.

    Args:
        net (nn.Module): The net.
        recorders (RecorderManager): What records it.
        run (Callable): Runs it.
    """
    kept: list[tuple[object, dict]] = []
    for recorder in recorders.recorders.values():
        own = (recorder, watch_of(recorder))
        kept += [(x, dict(vars(x))) for x in own if x is not None]
    try:
        with (
            in_eval(net),
            eagerly(net),
            torch_states_kept(net.parameters()),
            torch.no_grad(),
            recorders,
        ):
            run()
        yield
    finally:
        for owner, attributes in kept:
            vars(owner).update(attributes)
