"""Powers of two without a compiler."""

import math

from torch import Tensor

from ..utils.compiling import is_compiling

LN2 = math.log(2)


def exp2(exponents: Tensor) -> Tensor:
    """Return 2 to the power of each element.

    On a GPU PyTorch compiles its own ``exp2`` at the first call, with NVRTC, which
    takes about a second and may be missing; ``exp`` is part of PyTorch.
    """
    if exponents.device.type == 'cpu' or is_compiling():
        return exponents.exp2()
    return (exponents * LN2).exp_()
