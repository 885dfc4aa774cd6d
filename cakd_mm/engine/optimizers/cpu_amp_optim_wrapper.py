"""Mixed precision on a machine without a GPU."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from ...utils.errors import describe


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """bf16 autocast on the CPU, where mmengine's ``AmpOptimWrapper`` refuses.

    bf16 has float32's range, so no loss scaling is needed.

    Args:
        dtype (str): Only ``'bfloat16'``, the default.
        **kwargs: As in mmengine's ``OptimWrapper``.

    Raises:
        ValueError: any other ``dtype``.
    """

    def __init__(self, dtype: str = 'bfloat16', **kwargs) -> None:
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
