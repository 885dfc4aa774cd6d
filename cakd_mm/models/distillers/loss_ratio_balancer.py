"""Keeps the values of losses at a ratio, so that nobody has to search a weight."""

from collections.abc import Collection
from typing import ClassVar

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...compat import let_graphs_be_kept
from ...utils.errors import describe
from ..checks import check_number
from ..statistics import RunningMean, update_means
from ..term_axis import TermAxis, TermLabels

KEY = 'model.distiller.balancer'
EPS = 1e-12
# Factor of a float16 loss, because small gradients would vanish in float16.
HALF_SCALE = 2.0**12
ROUNDING = 1e-6


@MODELS.register_module()
class LossRatioBalancer(nn.Module):
    r"""Weights losses so that their values add up to ``ratio`` times another's.

    Table VI of CAKD (arXiv 2410.14741) varies the ratio of the loss *values*,
    feature : logit. Each of n ``losses`` is multiplied by

    .. math:: \lambda = \frac{ratio}{n} \frac{mean(reference)}{mean(loss)}

    where the means are running means: detached, averaged over ranks, right from the
    first batch, and saved in checkpoints. The ``loss_weight`` of a balanced loss has
    no effect. Three terms are logged: ``lambda``; ``ratio``, the ratio of the values
    in this step; and, in steps that print a line, ``grad_ratio``, the norm of the
    weighted loss's gradient over that of the reference's, both with respect to the
    student's tensor that the loss compares. ``lambda``, ``ratio`` and the weighted
    losses are finite for losses up to 1e18.

    Args:
        losses (str | list[str]): Names of the losses to weight.
        reference (str): Name of the loss that they are compared with, which keeps its
            weight.
        ratio (float): Aim for losses : reference. Defaults to 1.0.
        momentum (float): Least weight of a new batch in the running means. Defaults
            to 0.05.
        limits (tuple[float, float]): Least and greatest lambda. Defaults to
            (1e-3, 1e3).

    Attributes:
        queue (list): Other running means and their values in this step, which ranks
            exchange together with those of the losses. A step uses it up.

    Raises:
        ValueError: a number is out of range, or ``reference`` is balanced too.
    """

    term_labels: ClassVar[TermLabels] = {
        'lambda': (TermAxis.FACTOR, "lambda: the balancer's weight of this loss"),
        'ratio': (TermAxis.FACTOR, 'ratio: value of this loss / of the reference'),
        'grad_ratio': (
            TermAxis.FACTOR,
            'grad_ratio: gradient of this loss / of the reference',
        ),
    }

    limits: tuple[float, float]
    # The terms of the last step, by the name of the loss.
    terms: dict[str, dict[str, Tensor]]

    def __init__(
        self,
        losses: str | list[str],
        reference: str,
        ratio: float = 1.0,
        momentum: float = 0.05,
        limits: tuple[float, float] = (1e-3, 1e3),
    ) -> None:
        super().__init__()
        check_number(self, 'ratio', ratio, positive=True)
        if not 0 < limits[0] <= limits[1]:
            problem = 'These are the least and the greatest weight.'
            remedy = 'Write (1e-3, 1e3), say.'
            raise ValueError(describe(f'{KEY}.limits', limits, problem, remedy))
        self.losses = [losses] if isinstance(losses, str) else list(losses)
        self.reference = reference
        if not self.losses or reference in self.losses:
            problem = f'They are measured by {reference!r}, a loss of its own.'
            remedy = 'Name the feature losses here and the logit loss in reference.'
            raise ValueError(describe(f'{KEY}.losses', losses, problem, remedy))
        self.ratio = ratio
        self.limits = (limits[0], limits[1])
        self.means = RunningMean((len(self.losses) + 1,), momentum)
        self.queue: list[tuple[RunningMean, Tensor]] = []
        self.terms = {}
        let_graphs_be_kept()  # for `probe`

    def check_names(self, known: Collection[str]) -> None:
        """Raise ValueError unless all its losses are among ``known``."""
        problem = f'There are only the losses {sorted(known)}.'
        names = {'reference': self.reference}
        names |= {f'losses.{place}': name for place, name in enumerate(self.losses)}
        for key, name in names.items():
            if name not in known:
                remedy = 'Name one of those.'
                raise ValueError(describe(f'{KEY}.{key}', name, problem, remedy))

    def forward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``losses`` with the balanced ones weighted.

        Args:
            losses (dict[str, Tensor]): All distillation losses of the step,
                scalars.
        """
        names = [*self.losses, self.reference]
        dtype = self.means.value.dtype
        values = torch.stack([losses[name].detach().to(dtype) for name in names])
        queue, self.queue = self.queue, []
        if self.training:
            update_means([*queue, (self.means, values)])
        means = self.means.value
        share = self.ratio / len(self.losses)
        weights = share * means[-1] / means[:-1].clamp(min=EPS)
        weights = weights.clamp(*self.limits)
        balanced = dict(losses)
        self.terms = {}
        for name, weight, value in zip(self.losses, weights, values, strict=False):
            balanced[name] = losses[name] * weight
            self.terms[name] = {
                'lambda': weight,
                'ratio': weight * value / values[-1].clamp(min=EPS),
            }
        return balanced

    def warning(self, terms: dict[str, float]) -> str | None:
        """Return a warning if a weight is at its limit, where the ratio is not kept."""
        weight = terms.get('lambda', 1.0)
        low, high = self.limits
        # The weight is float32, where a limit of 1e-3 is not exactly 1e-3.
        if low * (1 + ROUNDING) < weight < high * (1 - ROUNDING):
            return None
        return (
            f'lambda has reached its limit, {weight:.3g}, so the ratio '
            f'{self.ratio} is not kept: widen {KEY}.limits={self.limits}, or see why '
            'one of the losses is so small.'
        )

    def probe(self, balanced: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        """Add ``grad_ratio`` to the terms, which costs a part of a backward pass.

        Args:
            balanced (dict[str, Tensor]): What :meth:`forward` returned.
            tensors (dict[str, Tensor]): Name of a balanced loss to the student's tensor
                that the loss compares.
        """
        for name in self.losses:
            tensor = tensors.get(name)
            if tensor is None or not tensor.requires_grad:
                continue
            norm = _gradient_norm(balanced[name], tensor)
            other = _gradient_norm(balanced[self.reference], tensor)
            if norm is not None and other is not None:
                self.terms[name]['grad_ratio'] = norm / other.clamp(min=EPS)


def _gradient_norm(loss: Tensor, tensor: Tensor) -> Tensor | None:
    """Return the norm of d loss / d tensor, None for a loss that ignores the tensor."""
    scale = HALF_SCALE if tensor.dtype == torch.float16 else 1.0
    (grad,) = torch.autograd.grad(
        scale * loss, tensor, retain_graph=True, allow_unused=True
    )
    return None if grad is None else grad.float().norm() / scale
