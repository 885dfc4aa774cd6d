"""The maths of CTKD (arXiv 2211.16231): a divergence at a learned temperature."""

import math

from torch import Tensor

from ...checks import checked_scores
from ...widened import widened

SCHEDULES = ('cosine', 'linear')


def tempered_kl(preds_S: Tensor, preds_T: Tensor, temperature: Tensor) -> Tensor:
    r"""Return the loss of every row, float64 (N,), differentiable in the temperature.

    .. math:: T^2 \, KL(softmax(z^T / T) \,||\, softmax(z^S / T))

    It is computed in float64, because the terms of its slope in T nearly cancel
    where T is large. The logits are (N, C), and the teacher's get no gradient;
    ``temperature`` is T > 0, a scalar or one for each row, (N,).

    Raises:
        TypeError: logits are no float tensors.
        ValueError: shapes do not fit.
    """
    preds_S, preds_T = map(widened, checked_scores(preds_S, preds_T))
    if temperature.shape not in ((), preds_S.shape[:1]):
        raise ValueError(
            f'temperature has shape {tuple(temperature.shape)} for logits of shape '
            f'{tuple(preds_S.shape)}: give a scalar or one temperature per sample.'
        )
    # It becomes float64 before both uses, so that its gradients are added unrounded.
    temperature = widened(temperature)
    scale = temperature.reshape(-1, 1)
    log_S, log_T = ((preds / scale).log_softmax(-1) for preds in (preds_S, preds_T))
    divergence = (log_T.exp() * (log_T - log_S)).sum(-1)
    return temperature.square() * divergence


def reverse_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x``, whose gradient is multiplied by ``factor``."""
    fixed = x.detach()
    return fixed + factor * (x - fixed)


def reversal_factor(
    epoch: int,
    epochs: int = 10,
    lambda_max: float = 0.0,
    lambda_min: float = -1.0,
    schedule: str = 'cosine',
) -> float:
    r"""Return the factor :math:`\lambda` of the temperature's gradient.

    With e = min(epoch, epochs) of E epochs, 'cosine' goes from ``lambda_max`` to
    ``lambda_min`` by half a wave,

    .. math:: \lambda = \lambda_{min} + (\lambda_{max} - \lambda_{min}) \,
              (1 + \cos(\pi e / E)) / 2

    and 'linear' in even steps. The last step is left out, as in the original.

    Args:
        epoch (int): Epochs begun, from 1.
        epochs (int): Epochs until the end of the schedule. Defaults to 10.
        lambda_max (float): Factor to begin with. Defaults to 0.0.
        lambda_min (float): Factor to end with. Defaults to -1.0.
        schedule (str): 'cosine' or 'linear'. Defaults to 'cosine'.
    """
    span = lambda_max - lambda_min
    if schedule == 'cosine':
        wave = math.cos(math.pi * min(epoch, epochs) / epochs)
        return lambda_min + span * (1 + wave) / 2
    return lambda_max - span / epochs * min(epoch, epochs - 1)
