"""Gradients that cannot be differentiated again, and say so."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def once_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a ``backward`` whose result has no graph refuse to be differentiated.

    PyTorch's ``once_differentiable`` refuses only if the incoming gradient has a graph,
    which the slope 1 of a loss has not. Where a net, or a standardisation, lies before
    the loss, the second derivative would lack the loss's curvature in silence.
    """

    @wraps(backward)
    def refusing(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                'The gradient of this loss cannot be differentiated once more: leave '
                'out create_graph=True, or take a loss of plain PyTorch operations.'
            )
        return backward(ctx, *grads)

    return refusing
