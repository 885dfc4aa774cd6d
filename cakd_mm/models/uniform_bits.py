"""Random numbers that follow from what they are for, whoever draws them."""

import torch
from torch import Tensor

# The constants of the SplitMix64 generator, as signed numbers.
INCREMENT = 0x9E3779B97F4A7C15 - 2**64
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def uniform_bits(indices: Tensor, count: int, seed: Tensor, step: Tensor) -> Tensor:
    """Return ``count`` random numbers for each index: (B,) -> int64 (B, count).

    They are uniform in [0, 2**63): the outputs of a SplitMix64 generator that every
    (seed, step, index) starts anew.
    """
    key = _mix(_mix(_mix(seed + INCREMENT) + step + INCREMENT) + indices + INCREMENT)
    numbers = torch.arange(1, count + 1, device=indices.device)
    return _mix(key.unsqueeze(1) + numbers * INCREMENT).bitwise_and_(2**63 - 1)


def _mix(bits: Tensor) -> Tensor:
    """Mix the 64 bits of each number; products wrap around."""
    bits = (bits ^ _shifted(bits, 30)) * FACTORS[0]
    bits = (bits ^ _shifted(bits, 27)) * FACTORS[1]
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift to the right and fill with zeros instead of the sign."""
    return (bits >> by) & (2 ** (64 - by) - 1)
