"""Mixed precision on a machine without a GPU."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from ...utils.errors import describe


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """bf16 autocast on the CPU, which mmengine's ``AmpOptimWrapper`` refuses.

    No loss scaling is needed, because bf16 has the range of float32.

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
                    'float16 training needs a GPU: its range is too small without '
                    'loss scaling, and CPUs have no kernels for it.',
                    "Write dtype='bfloat16', or leave it out.",
                )
            )
        super().__init__(**kwargs)
        self.cast_dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Run the forward pass in bf16 autocast."""
        with super().optim_context(model), torch.autocast('cpu', self.cast_dtype):
            yield
