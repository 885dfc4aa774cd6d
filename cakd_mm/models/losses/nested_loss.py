"""The base class of losses that are made of other losses, and answer for them."""

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import numpy as np
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.arguments import class_of, require_part
from ...utils.errors import describe
from .base import DistillLoss, as_distill_loss


class NestedLoss(DistillLoss):
    """Base of the losses that compute with other losses.

    What the others declare by :class:`DistillLoss` is declared by this one: it needs
    what one of them needs, and hands on what it is told. A subclass registers them
    under a name of its own and calls :meth:`hand_on` before it calls them.

    Args:
        losses (Sequence[nn.Module]): The other losses, of this package or not.
        loss_weight (float): Factor of the whole loss, beside those of the others.
            Defaults to 1.0.

    Attributes:
        inner (tuple[DistillLoss, ...]): The other losses, each with the protocol.

    Raises:
        ValueError: ``loss_weight`` is out of range.
    """

    def __init__(self, losses: Sequence[nn.Module], loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        # A tuple, because modules in it are not registered a second time.
        self.inner = tuple(map(as_distill_loss, losses))
        self.needs_epoch = any(loss.needs_epoch for loss in self.inner)
        self.needs_dataset = any(loss.needs_dataset for loss in self.inner)
        self.half_precision = all(loss.half_precision for loss in self.inner)
        self.views = max(loss.views for loss in self.inner)

    @property
    def one_class(self) -> bool:
        """That of any of the losses."""
        return any(loss.one_class for loss in self.inner)

    @property
    def any_size(self) -> bool:
        """That of all losses."""
        return all(loss.any_size for loss in self.inner)

    @property
    def uses_indices(self) -> bool:
        """That of any of the losses."""
        return any(loss.uses_indices for loss in self.inner)

    @property
    def auxiliary(self) -> Tensor | None:
        """The sum of what trains parts of the losses, if there is anything."""
        found = [x for loss in self.inner if (x := loss.auxiliary) is not None]
        return sum(found[1:], found[0]) if found else None

    @classmethod
    def describe_clusters(cls, cfg: Mapping) -> str:
        """Say what the loss within says, the first one of several."""
        part = cfg['loss'] if isinstance(cfg['loss'], Mapping) else cfg['loss'][0]
        describe_it = getattr(class_of(part, MODELS, 'loss'), 'describe_clusters', None)
        return describe_it(part) if describe_it else ''

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch to those that need it."""
        for loss in self.inner:
            if loss.needs_epoch:
                loss.set_epoch(epoch)

    def set_dataset(
        self, labels: np.ndarray | Tensor, seed: int = 0, batch_size: int = 0
    ) -> None:
        """Tell the training set to those that need it."""
        for loss in self.inner:
            if loss.needs_dataset:
                loss.set_dataset(labels, seed, batch_size)

    def hand_on(self) -> None:
        """Tell the losses what the distiller and the hooks have set for this step."""
        indices, self.indices = self.indices, None
        for loss in self.inner:
            loss.probing, loss.queue, loss.indices = self.probing, self.queue, indices


def built_loss(loss: Any, owner: str, key: str = 'loss') -> nn.Module:
    """Return a loss itself, or that of a config.

    Args:
        loss (dict | nn.Module): The config, or the loss.
        owner (str): Name of the class that computes with it.
        key (str): The config key that holds it. Defaults to ``'loss'``.

    Raises:
        TypeError: it is no config with a type.
        ValueError: it compares no ``preds_S`` with ``preds_T``.
    """
    require_part(loss, key, built=True)
    made = MODELS.build(loss) if isinstance(loss, Mapping) else loss
    if not {'preds_S', 'preds_T'} <= arguments_of(made).keys():
        problem = f'{owner} needs a loss between preds_S and preds_T.'
        remedy = "Write loss=dict(type='KDLoss'), say."
        raise ValueError(describe(key, type(made).__name__, problem, remedy))
    return made


def arguments_of(loss: nn.Module) -> dict[str, bool]:
    """Return the arguments of a loss, and of each whether it has no default."""
    forward = getattr(loss, 'forward', loss)
    return {
        name: parameter.default is Parameter.empty
        for name, parameter in signature(forward).parameters.items()
    }
