"""Access to a model that may be wrapped for several processes."""

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> Any:
    """Return the model inside a wrapper (DDP, say), or the model itself.

    It is Any because teacher, student and distiller exist in some models only.
    """
    return model.module if is_model_wrapper(model) else model
