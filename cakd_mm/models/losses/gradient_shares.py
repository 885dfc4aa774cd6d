"""Weights of BCD, SCD and WCD that give each a set share of the gradient."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...utils.errors import describe
from ..checks import is_number
from ..statistics import RunningMean
from ..term_axis import TermAxis, TermLabels
from .functional.cakd import DecoupledKL
from .functional.term_gradients import mean_square_gradients

SHARE_TERMS: TermLabels = {
    f'{name}_weight': (TermAxis.FACTOR, f'{name}_weight: of {name.upper()}, balanced')
    for name in DecoupledKL._fields
}
# Factor of the sum of the given weights that no weight exceeds, because the gradient
# of a term that has all but vanished is rounding.
LARGEST_FACTOR = 1e3
ROUNDING = 1e-6


class GradientShares(nn.Module):
    r"""Weights the divergences of CAKD so that each has its share of the gradient.

    With :math:`g_t` the root mean square over the samples of the length of term t's
    gradient by the student's scores, :math:`s_t` its share and :math:`w_t` the weight
    that the loss was given (alpha, beta, gamma),

    .. math:: weight_t = \frac{s_t}{g_t} \sum_u w_u \, g_u

    so that the lengths of the weighted gradients are as the shares, and add up to
    what they were. The squares are running means, averaged over ranks and saved in
    checkpoints. A term without any gradient (SCD of clusters of one class) leaves its
    share to the others. Before the first step of training the weights are those given.

    Args:
        shares (Mapping[str, float]): Of ``bcd``, ``scd`` and ``wcd``, which add up to
            1.
        owner (str): Name of the loss whose config sets them, for messages.
        momentum (float): As in :class:`RunningMean`. Defaults to 0.01.

    Raises:
        ValueError: they are no such shares.
    """

    shares: Tensor

    def __init__(
        self, shares: Mapping[str, float], owner: str, momentum: float = 0.01
    ) -> None:
        super().__init__()
        # A buffer, because a tensor made in each step would wait for the device.
        wanted = torch.tensor(_checked(shares, owner))
        self.register_buffer('shares', wanted, persistent=False)
        self.squares = RunningMean((len(DecoupledKL._fields),), momentum)

    @torch.no_grad()
    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        strong_mask: Tensor,
        tau: float,
        weights: tuple[float, float, float],
    ) -> Tensor:
        """Return the weights of BCD, SCD and WCD in this step, (3,).

        Args:
            preds_S (Tensor): The student's scores, (N, C).
            preds_T (Tensor): The teacher's, (N, C).
            strong_mask (Tensor): bool, (N, C).
            tau (float): Temperature.
            weights (tuple[float, float, float]): Those that the loss was given.
        """
        if self.training:
            batch = mean_square_gradients(preds_S, preds_T, strong_mask, tau)
            self.squares.update(batch)
        lengths = self.squares.value.sqrt()
        total = sum(w * length for w, length in zip(weights, lengths, strict=True))
        shares = self.shares * (lengths > 0)
        shares = shares / shares.sum().clamp(min=ROUNDING)
        least = torch.finfo(lengths.dtype).tiny
        limit = LARGEST_FACTOR * sum(weights)
        balanced = (shares * total / lengths.clamp(min=least)).clamp(max=limit)
        # Before the first step of training there is nothing to go by.
        given = torch.stack([torch.full_like(total, weight) for weight in weights])
        return torch.where(self.squares.batches > 0, balanced, given)

    def extra_repr(self) -> str:
        """Show the shares."""
        return ', '.join(
            f'{name}={share:g}'
            for name, share in zip(
                DecoupledKL._fields, self.shares.tolist(), strict=True
            )
        )


def _checked(shares: Mapping[str, float], owner: str) -> tuple[float, ...]:
    """Return the shares in the order of the terms."""
    names = DecoupledKL._fields
    fits = isinstance(shares, Mapping) and set(shares) == set(names)
    values = [shares[name] for name in names] if fits else []
    if (
        not fits
        or not all(is_number(value) and value >= 0 for value in values)
        or abs(sum(values) - 1) > ROUNDING
    ):
        problem = f'These are the shares of {", ".join(names)} in the gradient of '
        problem += f'{owner}, from 0 on, which add up to 1.'
        remedy = 'Write dict(bcd=0.2, scd=0.5, wcd=0.3), say.'
        raise ValueError(describe('gradient_shares', shares, problem, remedy))
    return tuple(values)
