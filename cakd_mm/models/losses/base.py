"""The base class of all distillation losses, and its part for all others."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...utils.model import unwrap
from ..checks import check_number
from ..statistics import RunningMean, RunningNorm
from ..term_axis import TermLabels
from .functional import batch_mean


class DistillLoss(nn.Module):
    """Base of the losses of this package, and of yours.

    A subclass implements ``forward``, whose arguments are named as in
    ``loss_forward_mappings`` (``preds_S``, ``preds_T``, ``gt_labels``) and which
    returns a scalar with ``loss_weight`` in it. All else is optional::

        @MODELS.register_module()
        class MyLoss(DistillLoss):
            term_labels = {'gap': (TermAxis.SQUARED, 'gap: of the logits')}

            def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
                gap = (preds_S - preds_T.detach()).square().mean(-1)
                self.log_terms(gap=gap)
                return self.loss_weight * batch_mean(gap)

    Who uses what:

    - :class:`StrictDistiller` calls ``forward``, adds :attr:`auxiliary` to the sum
      and sets :attr:`probing` and :attr:`queue`. It asks :meth:`norm_batches`, so that
      ranks exchange them all at once. :func:`fill_widths` asks :meth:`wanted_widths`.
    - :class:`DistillTermsHook` logs :attr:`terms` and prints :meth:`warning`.
    - :class:`DistillEpochHook` calls :meth:`set_epoch` if :attr:`needs_epoch`.
    - :class:`FrozenTeacherDistill` sets :attr:`indices` if :attr:`uses_indices`.
    - :class:`SampleIndexHook` calls :meth:`set_dataset` and sets :attr:`indices` if
      :attr:`needs_dataset`.
    - :class:`ViewsHook` refuses batches that do not hold :attr:`views`.
    - ``plot_cakd.py`` draws terms by :attr:`term_labels`.

    The losses of this package give finite values, terms and gradients for all scores
    and features up to 1e12 in absolute value (``models.checks.LARGEST_INPUT``), in
    float32 and float64. This holds for all settings that they take: a weight is from 0
    to 1e6, a temperature from 1e-6 to 1e6.

    A loss that is no subclass (mmrazor's, or any module) works as well, see
    :func:`as_distill_loss`: if it has an attribute of such a name, that is used.

    Args:
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.

    Attributes:
        half_precision (bool): Whether ``forward`` gets tensors in half precision if
            the nets compute in it. Defaults to False, which makes them float32,
            because a small divergence would vanish.
        needs_epoch (bool): Whether the loss changes with the epoch.
        needs_dataset (bool): Whether the loss has to know each image of the
            training set.
        views (int): How many views of each image the loss compares. The rows of its
            batch are those of the first view of all images, then those of the next.
            Defaults to 1, which takes each row as an image of its own.
        term_labels (TermLabels): Axis and legend of the terms in plots.
        probing (bool): Whether this step is logged, so that ``forward`` may spend
            time on terms that do not change the loss. Defaults to True.
        queue (list, optional): Takes running means and this step's values of them
            that the loss can do without; ranks exchange them all at once after the
            losses. None if they are to be updated at once.
        indices (Tensor, optional): Places of the batch's images in the training
            set, int64, (N,), on the host.

    Raises:
        ValueError: ``loss_weight`` is out of range.
    """

    half_precision: bool = False
    needs_epoch: bool = False
    needs_dataset: bool = False
    views: int = 1
    term_labels: TermLabels = {}

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_number(self, 'loss_weight', loss_weight)
        self.loss_weight = loss_weight
        self.probing = True
        self.queue: list[tuple[RunningMean, Tensor]] | None = None
        self.indices: Tensor | None = None
        self._logged: dict[str, Tensor] = {}
        # What a class logs itself, so that `log_terms` of a subclass adds to it.
        self._own_rows: dict[str, Tensor] = {}

    @property
    def class_name(self) -> str:
        """The name of the class of the loss, for messages."""
        return type(self).__name__

    @property
    def one_class(self) -> bool:
        """Whether an image with several labels, or with none, has to be refused.

        Then ``gt_labels`` are read as one class per image. Defaults to False.
        """
        return False

    @property
    def any_size(self) -> bool:
        """Whether maps of unequal sizes are compared as they are.

        A connector then leaves the student's as large as it is. Defaults to False.
        """
        return False

    @property
    def mean_of_rows(self) -> bool:
        """Whether the loss is the mean of what each row of scores gives by itself.

        Then a :class:`DenseLoss` may compute it part by part, and each part twice, so
        that no call may change another. The terms are such means, too. Defaults to
        False.
        """
        return False

    @property
    def uses_indices(self) -> bool:
        """Whether :attr:`indices` make a difference, though the loss can do without.

        :class:`FrozenTeacherDistill` then sets them where the images have any.
        """
        return False

    @classmethod
    def wanted_widths(cls, cfg: Mapping) -> dict[str, str]:
        """Return which arguments of a config the nets determine.

        Args:
            cfg (Mapping): The config of the loss as the user wrote it.

        Returns:
            dict[str, str]: Name of an argument to its source: ``'student'`` or
            ``'teacher'`` for the channels of what ``preds_S`` or ``preds_T`` taps,
            ``'student_row_classes'`` for those that score one box or pixel of a map,
            ``'classes'`` for the number of the teacher's classes. Only what is
            missing is filled in. Defaults to nothing.
        """
        return {}

    @classmethod
    def describe_clusters(cls, cfg: Mapping) -> str:
        """Say in a plot's title what is strong and what is weak, if anything is."""
        return ''

    def norm_batches(
        self, inputs: Mapping[str, Any]
    ) -> list[tuple[RunningNorm, Tensor]]:
        """Return the rows with which ``forward`` is going to update each norm.

        ``inputs`` are the arguments of ``forward`` by name. Defaults to nothing.
        """
        return []

    def log_terms(self, **terms: Tensor) -> None:
        """Save values of this step, of any shape, whose means are to be logged.

        The names ``lambda``, ``ratio`` and ``grad_ratio`` belong to the balancer.
        """
        # The terms are detached, because they would keep the graph of the step alive.
        self._logged = {
            name: value.detach() if value.requires_grad else value
            for name, value in terms.items()
        }

    @property
    def terms(self) -> dict[str, Tensor]:
        """The last step's terms, detached scalars."""
        return self.terms_of(self.rows)

    @property
    def rows(self) -> dict[str, Tensor]:
        """What the last step's terms are computed from, of any shape.

        Rows are added up over the steps of a line of the log, which costs one kernel a
        step, and their means over the steps are the rows of :meth:`terms_of`. Where
        a class has ``terms`` of its own, those are added up instead.
        """
        return {**self._own_rows, **self._logged}

    def terms_of(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return terms, scalars, which have to be linear in ``rows``."""
        return {name: batch_mean(value) for name, value in rows.items()}

    @property
    def auxiliary(self) -> Tensor | None:
        """The loss of this step that trains a part of this loss (a scorer, say).

        The distiller adds the scalar to the sum of all losses, unweighted.
        """
        return None

    def warning(self, terms: dict[str, float]) -> str | None:
        """Return what a user should be told about the logged terms, if anything."""
        return None

    def set_epoch(self, epoch: int) -> None:
        """Take note of the epoch that begins, counted from 0."""

    def set_dataset(
        self, labels: np.ndarray | Tensor, seed: int = 0, batch_size: int = 0
    ) -> None:
        """Take up the training set, before a checkpoint is loaded.

        Args:
            labels (np.ndarray | Tensor): Class of every image, integers, (N,).
            seed (int): The run's seed, the same on all ranks. Defaults to 0.
            batch_size (int): Images per step and rank at most. Defaults to 0,
                unknown.
        """

    def extra_repr(self) -> str:
        """Show the settings, all plain attributes, in a printed model."""
        settings = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, (bool, int, float, str)) and not name.startswith('_')
        }
        for name in ('training', 'probing'):
            del settings[name]
        settings['loss_weight'] = settings.pop('loss_weight')  # in the last place
        return ', '.join(f'{name}={value!r}' for name, value in settings.items())


class ForeignLoss(DistillLoss):
    """Stands for a loss that is no :class:`DistillLoss`.

    An attribute of the module that has a name of the protocol is used; everything
    else has its default. Nothing of the module is copied or registered again.
    """

    _module: tuple[nn.Module]

    def __init__(self, module: nn.Module) -> None:
        # The module is in a tuple, because a submodule would be saved twice.
        object.__setattr__(self, '_module', (module,))
        super().__init__()
        self.needs_epoch = self._of_module('set_epoch') is not None
        self.needs_dataset = self._of_module('set_dataset') is not None
        self.views = self._of_module('views') or 1

    def _of_module(self, name: str) -> Any:
        return getattr(self._module[0], name, None)

    @property
    def class_name(self) -> str:
        """The name of the class of the module."""
        return type(self._module[0]).__name__

    @property
    def one_class(self) -> bool:
        """The module's ``one_class``."""
        return bool(self._of_module('one_class'))

    @property
    def any_size(self) -> bool:
        """The module's ``any_size``."""
        return bool(self._of_module('any_size'))

    @property
    def uses_indices(self) -> bool:
        """The module's ``uses_indices``."""
        return bool(self._of_module('uses_indices'))

    @property
    def terms(self) -> dict[str, Tensor]:
        """The module's ``terms``."""
        return dict(self._of_module('terms') or {})

    @property
    def auxiliary(self) -> Tensor | None:
        """The module's ``auxiliary``."""
        return self._of_module('auxiliary')

    def warning(self, terms: dict[str, float]) -> str | None:
        """Return the module's ``warning``."""
        warning = self._of_module('warning')
        return warning(terms) if warning else None

    def set_epoch(self, epoch: int) -> None:
        """Call the module's ``set_epoch``."""
        self._of_module('set_epoch')(epoch)

    def set_dataset(
        self, labels: np.ndarray | Tensor, seed: int = 0, batch_size: int = 0
    ) -> None:
        """Call the module's ``set_dataset``."""
        self._of_module('set_dataset')(labels, seed, batch_size)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ('probing', 'indices') and hasattr(self._module[0], name):
            setattr(self._module[0], name, value)


def as_distill_loss(module: nn.Module) -> DistillLoss:
    """Return a loss itself, or what stands for it if it is no DistillLoss."""
    return module if isinstance(module, DistillLoss) else ForeignLoss(module)


def rows_of(loss: DistillLoss) -> dict[str, Tensor]:
    """Return what is added up of a loss: its ``rows``, or ``terms`` of its own."""
    return loss.terms if _has_own_terms(loss) else loss.rows


def terms_from(loss: DistillLoss, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the terms of :func:`rows_of`, or of their means over several steps."""
    kind = DistillLoss if _has_own_terms(loss) else type(loss)
    return kind.terms_of(loss, rows)


def _has_own_terms(loss: DistillLoss) -> bool:
    return type(loss).terms is not DistillLoss.terms


def losses_of(model: nn.Module) -> list[DistillLoss]:
    """Return the distillation losses of a model, if it has any.

    ``model`` is an algorithm of mmrazor, wrapped for several ranks or not.
    """
    distiller = getattr(unwrap(model), 'distiller', None)
    losses = getattr(distiller, 'distill_losses', {})
    return [as_distill_loss(loss) for loss in losses.values()]


def in_float32(data: Any) -> Any:
    """Return half-precision tensors, in a list too, as float32; the rest as it is."""
    if isinstance(data, (list, tuple)):
        return [in_float32(item) for item in data]
    if isinstance(data, Tensor) and data.dtype in (torch.float16, torch.bfloat16):
        return data.float()
    return data
