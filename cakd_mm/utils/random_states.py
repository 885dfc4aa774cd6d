"""The states of the random generators that a run draws from."""

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor


@contextmanager
def random_states_kept(tensors: Iterable[Tensor] = ()) -> Iterator[None]:
    """Put back the states of all generators, so that training draws what it would.

    Args:
        tensors (Iterable[Tensor]): As in :func:`torch_states_kept`.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch_states_kept(tensors):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def torch_states_kept(tensors: Iterable[Tensor] = ()) -> Iterator[None]:
    """Put back the states of PyTorch's generators.

    Args:
        tensors (Iterable[Tensor]): Those of their devices count, of whatever kind,
            beside those of the host and of the default device. Defaults to nothing.
    """
    devices = {x.device for x in (torch.empty(0), *tensors)}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))  # of the host
        for device in devices:
            # The host's are kept already, and some kinds of devices have none.
            if hasattr(getattr(torch, device.type, None), 'get_rng_state'):
                # PyTorch would take them for numbers of CUDA's devices.
                fork = torch.random.fork_rng([device], device_type=device.type)
                stack.enter_context(fork)
        yield
