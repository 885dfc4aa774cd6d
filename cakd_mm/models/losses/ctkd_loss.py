"""CTKD: a temperature that is learned against the student."""

import math
from collections.abc import Mapping
from numbers import Real

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from ..checks import check_number, checked_scores
from ..term_axis import TermAxis
from .base import DistillLoss
from .functional import batch_mean
from .functional.ctkd import (
    SCHEDULES,
    reversal_factor,
    reverse_gradient,
    tempered_kl,
)


@MODELS.register_module()
class CTKDLoss(DistillLoss):
    r"""Distillation at a learned temperature that makes it harder.

    "Curriculum Temperature for Knowledge Distillation", arXiv 2211.16231:

    .. math:: L = T^2 \, mean(KL(p^T_T || p^S_T)), \quad
              T = t_{start} + t_{end} \, sigmoid(\theta)

    The student descends L. :math:`\theta`, a parameter of this module, gets the
    gradient times :math:`\lambda \le 0` and so climbs, the faster the further the
    schedule of :math:`\lambda` has come, see :func:`reversal_factor`. The epoch
    comes from :class:`DistillEpochHook`, which must be among the hooks. ``terms``
    holds the last step's ``temperature`` (the mean of the batch, if instance-wise)
    and ``reversal``, which is :math:`\lambda`: in the log ``lambda`` is the weight
    that a :class:`LossRatioBalancer` gives a loss.

    Instance-wise, a layer of ``hidden`` ReLUs reads both nets' logits of a sample,
    without their means, and puts out its :math:`\theta`. It begins with ``init``
    for all samples; no gradient goes through it to the student.

    Args:
        t_start (float): Least temperature. Defaults to 1.0.
        t_end (float): Width of the range above it. Defaults to 20.0.
        init (float): First value of theta; 1 makes T = 15.6. Defaults to 1.0.
        lambda_max (float): First factor, at most 0. Defaults to 0.0.
        lambda_min (float): Last factor, at most ``lambda_max``. Defaults to -1.0.
        epochs (int): Epochs from the first factor to the last. Defaults to 10.
        schedule (str): ``'cosine'`` or ``'linear'``. Defaults to ``'cosine'``.
        instance_wise (bool): One temperature for each sample. Defaults to False.
        num_classes (int, optional): Number of logits; needed by ``instance_wise``,
            taken from the nets if left out of a config. Defaults to None.
        hidden (int): Width of the network. Defaults to 128.
        loss_weight (float): Factor of the loss. Defaults to 1.0.

    Raises:
        ValueError: a setting is out of range, or ``instance_wise`` lacks
            ``num_classes``.
    """

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
    ) -> None:
        super().__init__(loss_weight)
        check_number(self, 't_start', t_start, positive=True)
        check_number(self, 't_end', t_end, positive=True)
        _check_theta(init)
        _check_schedule(lambda_max, lambda_min, epochs, schedule)
        self.t_start = t_start
        self.t_end = t_end
        self.lambda_max = lambda_max
        self.lambda_min = lambda_min
        self.epochs = epochs
        self.schedule = schedule
        self.num_classes = num_classes
        self.epoch: int | None = None
        self.theta = self.network = None
        if instance_wise:
            self.network = _network(num_classes, hidden, init)
        else:
            self.theta = nn.Parameter(torch.tensor(float(init)))

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Ask for the number of classes, which the instance-wise form reads."""
        return {'num_classes': 'classes'} if cfg.get('instance_wise') else {}

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch that begins, counted from 0.

        Raises:
            ValueError: ``epoch`` is no integer from 0 on.
        """
        if not _is_int(epoch) or epoch < 0:
            raise ValueError(
                f'epoch must be an integer from 0 on, got {epoch!r}: pass runner.epoch.'
            )
        self.epoch = epoch

    @property
    def reversal(self) -> float:
        """The factor of the temperature's gradient in this epoch."""
        begun = 0 if self.epoch is None else self.epoch + 1
        return reversal_factor(
            begun, self.epochs, self.lambda_max, self.lambda_min, self.schedule
        )

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.

        Returns:
            Tensor: The loss, a float32 (or float64) scalar.

        Raises:
            TypeError: logits are no float tensors.
            ValueError: shapes do not fit, or in training no one tells the epoch.
        """
        if self.training and self.epoch is None:
            raise ValueError(
                describe(
                    'default_hooks.distill_epoch',
                    None,
                    'CTKDLoss was not told the epoch, so lambda would keep its first '
                    'value and the temperature would never be learned.',
                    "Write default_hooks.distill_epoch=dict(type='DistillEpochHook').",
                )
            )
        preds_S, preds_T = checked_scores(preds_S, preds_T)
        temperature = self._temperature_of(preds_S, preds_T)
        reversal = torch.full_like(temperature, self.reversal)
        self.log_terms(temperature=temperature, reversal=reversal)
        rows = tempered_kl(preds_S, preds_T, temperature)
        return (self.loss_weight * batch_mean(rows)).to(preds_S.dtype)

    def _temperature_of(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return T, a scalar or (N,), with the gradient for what it comes from."""
        theta = self.theta
        if self.network is not None:
            theta = self._theta_of(preds_S.detach(), preds_T)
        theta = reverse_gradient(theta.double(), self.reversal)
        return self.t_start + self.t_end * theta.sigmoid()

    def _theta_of(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Ask the network: logits (N, C) without gradient to (N,)."""
        if preds_S.shape[1] != self.num_classes:
            raise ValueError(
                describe(
                    'num_classes',
                    self.num_classes,
                    f'The logits have the shape {tuple(preds_S.shape)}.',
                    f'Write num_classes={preds_S.shape[1]} in the config of CTKDLoss.',
                )
            )
        dtype = self.network[0].weight.dtype
        # A constant added to all logits of a net does not matter to its softmax.
        logits = [x - x.mean(-1, keepdim=True) for x in (preds_S, preds_T)]
        with torch.autocast(preds_S.device.type, enabled=False):
            return self.network(torch.cat(logits, -1).to(dtype)).squeeze(-1)


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _check_theta(init: float) -> None:
    if not _is_finite(init):
        raise ValueError(
            f'init must be a finite number, got {init!r}: set init in the config of '
            'CTKDLoss; 1.0 is the original.'
        )


def _check_schedule(
    lambda_max: float, lambda_min: float, epochs: int, schedule: str
) -> None:
    numbers = _is_finite(lambda_max) and _is_finite(lambda_min)
    if not numbers or not lambda_min <= lambda_max <= 0:
        raise ValueError(
            f'lambda_max={lambda_max!r} and lambda_min={lambda_min!r} must be finite '
            'with lambda_min <= lambda_max <= 0, or the temperature would be learned '
            'in favour of the student: write lambda_max=0.0, lambda_min=-1.0, say.'
        )
    if schedule not in SCHEDULES:
        raise ValueError(
            f'schedule must be one of {SCHEDULES}, got {schedule!r}: set it in the '
            'config of CTKDLoss.'
        )
    least = 1 if schedule == 'cosine' else 2
    if not _is_int(epochs) or epochs < least:
        raise ValueError(
            f'epochs must be an integer from {least} on for schedule={schedule!r}, '
            f'got {epochs!r}: write epochs=10 in the config of CTKDLoss, say.'
        )


def _network(num_classes: int | None, hidden: int, init: float) -> nn.Sequential:
    """Return the network of the instance-wise form, which begins with ``init``."""
    for name, value in (('num_classes', num_classes), ('hidden', hidden)):
        if not _is_int(value) or value < 1:
            raise ValueError(
                f'instance_wise=True needs {name}, a positive integer, got {value!r}: '
                f'set {name} in the config of CTKDLoss.'
            )
    last = nn.Linear(hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, init)
    return nn.Sequential(nn.Linear(2 * num_classes, hidden), nn.ReLU(), last)
