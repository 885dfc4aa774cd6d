"""Mixed precision in bf16, on any device."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from ...utils.errors import describe


@OPTIM_WRAPPERS.register_module(name=['BF16OptimWrapper', 'CPUAmpOptimWrapper'])
class BF16OptimWrapper(OptimWrapper):
    """bf16 autocast on the device of the model, without loss scaling.

    bf16 has the range of float32. mmengine's ``AmpOptimWrapper`` scales losses all the
    same, for which a GPU has to be waited for in each step, and it refuses a CPU.

    Args:
        dtype (str): Must be ``'bfloat16'``, which is the default.
        **kwargs: As in mmengine's ``OptimWrapper``.

    Raises:
        ValueError: any other ``dtype``.
    """

    def __init__(self, dtype: str | torch.dtype = 'bfloat16', **kwargs) -> None:
        if dtype not in ('bfloat16', torch.bfloat16):
            raise ValueError(
                describe(
                    'optim_wrapper.dtype',
                    dtype,
                    'The range of float16 is too small without loss scaling, which '
                    "needs a GPU and type='AmpOptimWrapper'.",
                    "Write dtype='bfloat16', or leave it out.",
                )
            )
        super().__init__(**kwargs)
        self.cast_dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Run the forward pass in bf16 autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, self.cast_dtype):
            yield


# The name of former versions, which had it for the CPU alone.
CPUAmpOptimWrapper = BF16OptimWrapper
