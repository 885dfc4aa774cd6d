"""Looking into a model that may be wrapped for several processes."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside a wrapper (DDP, say), or the model itself."""
    return model.module if is_model_wrapper(model) else model
