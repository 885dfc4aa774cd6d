"""CTKD, whose temperature is learned against the student."""

from collections.abc import Mapping

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from ..checks import (
    LARGEST_SETTING,
    check_number,
    is_count,
    is_number,
)
from ..term_axis import TermAxis
from ..widened import widened
from .epoch_loss import EpochLoss
from .functional import batch_mean
from .functional.ctkd import SCHEDULES, reversal_factor, reverse_gradient, tempered_kl
from .logit_loss import LogitLoss


@MODELS.register_module()
class CTKDLoss(EpochLoss, LogitLoss):
    r"""Distillation at a learned temperature that makes it harder.

    "Curriculum Temperature for Knowledge Distillation", arXiv 2211.16231:

    .. math:: L = T^2 \, mean(KL(p^T_T || p^S_T)), \quad
              T = t_{start} + t_{end} \, sigmoid(\theta)

    The student lowers L. :math:`\theta`, a parameter of this module, raises it, because
    its gradient is multiplied by :math:`\lambda \le 0`, see :func:`reversal_factor`.
    The epoch for :math:`\lambda` comes from :class:`DistillEpochHook`, which must be
    among the hooks. ``terms`` holds the last step's ``temperature``, the mean of the
    batch, and ``reversal``, which is :math:`\lambda`. (In the log ``lambda`` is the
    weight that a :class:`LossRatioBalancer` gives a loss.)

    If ``instance_wise``, a network with ``hidden`` ReLUs computes the :math:`\theta`
    of a sample from the logits of both nets minus their means. It begins with
    ``init`` for all samples and passes no gradient on to the student. Logits up to 1e12
    give finite numbers, also for its weights, see :class:`DistillLoss`.

    Args:
        t_start (float): Least temperature. Defaults to 1.0.
        t_end (float): Width of the range above it. Defaults to 20.0.
        init (float): First value of theta; 1 makes T = 15.6. Defaults to 1.0.
        lambda_max (float): First factor, at most 0. Defaults to 0.0.
        lambda_min (float): Last factor, at most ``lambda_max``. Defaults to -1.0.
        epochs (int): Epochs from the first factor to the last. Defaults to 10.
        schedule (str): ``'cosine'`` or ``'linear'``. Defaults to ``'cosine'``.
        instance_wise (bool): Whether each sample has a temperature of its own.
            Defaults to False.
        num_classes (int, optional): Number of logits; needed by ``instance_wise``,
            taken from the nets if left out of a config. Defaults to None.
        hidden (int): Width of the network. Defaults to 128.
        loss_weight (float): Factor of the loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. The network
            then reads standardised logits, too. Defaults to False.

    Raises:
        ValueError: a setting is out of range, or ``instance_wise`` lacks
            ``num_classes``.
    """

    theta: nn.Parameter  # only without ``instance_wise``
    mean_of_rows = True
    needs_epoch = True
    term_labels = {
        'temperature': (
            TermAxis.TEMPERATURE,
            'temperature: learned, mean of the batch',
        ),
        'reversal': (TermAxis.GRADIENT_FACTOR, 'reversal: λ, reversed below 0'),
    }

    def __init__(
        self,
        t_start: float = 1.0,
        t_end: float = 20.0,
        init: float = 1.0,
        lambda_max: float = 0.0,
        lambda_min: float = -1.0,
        epochs: int = 10,
        schedule: str = 'cosine',
        instance_wise: bool = False,
        num_classes: int | None = None,
        hidden: int = 128,
        loss_weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 't_start', t_start, positive=True)
        check_number(self, 't_end', t_end, positive=True)
        if not is_number(init) or not abs(init) <= LARGEST_SETTING:
            raise ValueError(
                f'init must be a number from {-LARGEST_SETTING:g} to '
                f'{LARGEST_SETTING:g}, got {init!r}: set init in the config of '
                'CTKDLoss; 1.0 is the original.'
            )
        _check_schedule(lambda_max, lambda_min, epochs, schedule)
        self.t_start = t_start
        self.t_end = t_end
        self.lambda_max = lambda_max
        self.lambda_min = lambda_min
        self.epochs = epochs
        self.schedule = schedule
        self.num_classes = num_classes
        self.network: nn.Sequential | None = None
        if instance_wise:
            self.network = _network(num_classes, hidden, init)
        else:
            self.theta = nn.Parameter(torch.tensor(float(init)))

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Ask for the number of classes, which the instance-wise form reads."""
        return {'num_classes': 'classes'} if cfg.get('instance_wise') else {}

    @property
    def reversal(self) -> float:
        """The factor of the temperature's gradient in this epoch."""
        return reversal_factor(
            self.epochs_begun,
            self.epochs,
            self.lambda_max,
            self.lambda_min,
            self.schedule,
        )

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.

        Raises:
            TypeError: logits are no float tensors.
            ValueError: shapes do not fit, or ``set_epoch`` was never called
                before a step of training.
        """
        preds_S, preds_T = self.scores(preds_S, preds_T)
        theta = widened(self._theta(preds_S.detach(), preds_T))
        gate = reverse_gradient(theta, self.reversal).sigmoid()
        temperature = self.t_start + self.t_end * gate
        reversal = torch.full_like(temperature, self.reversal)
        self.log_terms(temperature=temperature, reversal=reversal)
        rows = tempered_kl(preds_S, preds_T, temperature)
        return (self.loss_weight * batch_mean(rows)).to(preds_S.dtype)

    def _theta(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return theta, a scalar, or (N,) from the logits if ``instance_wise``."""
        if self.network is None:
            return self.theta
        if preds_S.shape[1] != self.num_classes:
            raise ValueError(
                describe(
                    'num_classes',
                    self.num_classes,
                    f'The logits have the shape {tuple(preds_S.shape)}.',
                    f'Write num_classes={preds_S.shape[1]} in the config of CTKDLoss.',
                )
            )
        dtype = next(self.network.parameters()).dtype
        # The mean is subtracted, because it does not change the net's softmax.
        logits = [x - x.mean(-1, keepdim=True) for x in (preds_S, preds_T)]
        with torch.autocast(preds_S.device.type, enabled=False):
            return self.network(torch.cat(logits, -1).to(dtype)).squeeze(-1)


def _check_schedule(
    lambda_max: float, lambda_min: float, epochs: int, schedule: str
) -> None:
    numbers = is_number(lambda_max) and is_number(lambda_min)
    if not numbers or not -LARGEST_SETTING <= lambda_min <= lambda_max <= 0:
        raise ValueError(
            f'lambda_max={lambda_max!r} and lambda_min={lambda_min!r} must be numbers '
            f'with {-LARGEST_SETTING:g} <= lambda_min <= lambda_max <= 0, or the '
            'temperature would be learned in favour of the student: write '
            'lambda_max=0.0, lambda_min=-1.0, say.'
        )
    if schedule not in SCHEDULES:
        raise ValueError(
            f'schedule must be one of {SCHEDULES}, got {schedule!r}: set it in the '
            'config of CTKDLoss.'
        )
    least = 1 if schedule == 'cosine' else 2
    if not is_count(epochs, least):
        raise ValueError(
            f'epochs must be an integer from {least} on for schedule={schedule!r}, '
            f'got {epochs!r}: write epochs=10 in the config of CTKDLoss, say.'
        )


def _network(num_classes: int | None, hidden: int, init: float) -> nn.Sequential:
    """Return the network of the instance-wise form, which begins with ``init``."""

    def positive(name: str, value: int | None) -> int:
        if is_count(value):
            return value
        raise ValueError(
            f'instance_wise=True needs {name}, a positive integer, got {value!r}: set '
            f'{name} in the config of CTKDLoss.'
        )

    inputs = 2 * positive('num_classes', num_classes)
    hidden = positive('hidden', hidden)
    last = nn.Linear(hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, init)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)
