"""The states of the random generators that a run draws from."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_states_kept(
    devices: Iterable[torch.device] | None = None,
) -> Iterator[None]:
    """Put back the states of all generators, so that training draws what it would.

    Args:
        devices (Iterable[torch.device], optional): GPUs whose generators count, beside
            those of the host. Defaults to None (all GPUs).
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
