"""Access to a model, which may be wrapped for several processes, and to its parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def unwrap(model: nn.Module) -> Any:
    """Return the model inside a wrapper (DDP, say), or the model itself.

    It is Any because teacher, student and distiller exist in some models only.
    """
    return model.module if is_model_wrapper(model) else model


def trunk_of(net: nn.Module) -> Any:
    """Return what makes a net's features: its backbone, or the net of others in it.

    It is the net itself if it has neither.
    """
    return getattr(net, 'backbone', getattr(net, 'model', net))


def is_of_all_ranks(model: nn.Module) -> bool:
    """Return whether a wrapper adds up gradients over all ranks in PyTorch's own way.

    Another process group or communication hook may let ranks have other weights.
    """
    return (
        isinstance(model, DistributedDataParallel)
        and not model._comm_hooks
        and model.process_group == torch.distributed.group.WORLD
    )


def exchangeable_parameters(
    wrapper: DistributedDataParallel,
) -> dict[str, nn.Parameter]:
    """Return the parameters, frozen ones too, that are no rank's own concern."""
    ignored = wrapper.parameters_to_ignore
    return {x: p for x, p in wrapper.module.named_parameters() if x not in ignored}


def exchanged_parameters(wrapper: DistributedDataParallel) -> dict[str, nn.Parameter]:
    """Return the parameters whose gradients a wrapper made now would exchange."""
    found = exchangeable_parameters(wrapper)
    return {name: weight for name, weight in found.items() if weight.requires_grad}


@contextmanager
def in_eval(net: nn.Module) -> Iterator[None]:
    """Keep a net in eval mode, and put each of its modules back into its own."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
