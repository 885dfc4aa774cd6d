"""One loss for each level of a pyramid."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from ..checks import check_number, is_count
from ..statistics import RunningNorm
from ..term_axis import TermAxis, label_of_level, of_level
from .functional import batch_mean
from .nested_loss import NestedLoss, arguments_of, built_loss


@MODELS.register_module()
class LevelLoss(NestedLoss):
    r"""Applies a loss to each level of a pyramid, and takes the mean over the levels.

    ``preds_S`` and ``preds_T`` are lists, an FPN's maps or the scores of a head, say.
    With n levels, each of which has a loss :math:`L_i` of its own, with its own running
    statistics, scorer and widths,

    .. math:: L = \frac{1}{n} \sum_i weight_i \, L_i

    It is the mean and not the sum, so that a deeper pyramid does not make it larger::

        dict(type='LevelLoss', loss=dict(type='CAKDFeatureLoss', granularity='channel'))
        dict(type='LevelLoss',
             loss=dict(type='DenseLoss', loss=dict(type='SigmoidKDLoss')))

    ``terms`` holds those of each level, ``bcd_0`` of the first, and their means over
    the levels, without weights, under the plain names.

    Args:
        loss (dict | list): The config of the loss, one for all levels, or a list with
            one for each. In a config of a distiller, :func:`fill_widths` makes such a
            list where the mapping names lists of recorders, and fills in the widths of
            each level.
        levels (int, optional): How many levels there are. Needed if ``loss`` is one
            config and nothing fills it in. Defaults to None, the length of the list.
        weights (Sequence[float], optional): Weight of each level. Defaults to 1 for
            all.
        loss_weight (float): Factor of the whole loss, beside those of ``loss``.
            Defaults to 1.0.

    Attributes:
        by_level (bool): True, which tells :func:`fill_widths` so.

    Raises:
        TypeError: ``loss`` is no config of a loss, or ``weights`` no list.
        ValueError: the number of levels is not known or contradictory, or a number is
            out of range.
    """

    by_level: ClassVar[bool] = True

    def __init__(
        self,
        loss: dict | list,
        levels: int | None = None,
        weights: Sequence[float] | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        parts = _of_each_level(loss, levels)
        built = [
            built_loss(part, type(self).__name__, f'loss.{i}')
            for i, part in enumerate(parts)
        ]
        super().__init__(built, loss_weight)
        self.losses = nn.ModuleList(built)
        self.weights = self._checked(weights)
        labels: dict[str, tuple[TermAxis, str]] = {}
        for level, inner in enumerate(self.inner):
            for term, entry in inner.term_labels.items():
                labels.setdefault(term, entry)
                labels[of_level(term, level)] = label_of_level(entry, term, level)
        self.term_labels = labels

    def _checked(self, weights: Sequence[float] | None) -> tuple[float, ...]:
        """Return a weight for each level."""
        count = len(self.inner)
        if weights is None:
            return (1.0,) * count
        if not isinstance(weights, (list, tuple)):
            raise TypeError(
                f'weights must be a list with a number for each level, got {weights!r}:'
                f' write weights={[1.0] * count}, say, or loss_weight for all levels.'
            )
        if len(weights) != count:
            problem = f'There are {count} levels.'
            remedy = f'Write {count} numbers, or leave it out.'
            raise ValueError(describe('weights', list(weights), problem, remedy))
        for weight in weights:
            check_number(self, 'weights', weight)
        return tuple(weights)

    def forward(
        self,
        preds_S: Sequence[Tensor],
        preds_T: Sequence[Tensor],
        gt_labels: Tensor | Sequence[Tensor] | None = None,
        head_weight: Tensor | Sequence[Tensor] | None = None,
        head_bias: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Sequence[Tensor]): What the student gives, one of each level.
            preds_T (Sequence[Tensor]): What the teacher gives; gets no gradient.
            gt_labels (Tensor | Sequence[Tensor], optional): Labels for the losses of
                all levels, or a list with those of each.
            head_weight (Tensor | Sequence[Tensor], optional): Likewise.
            head_bias (Tensor | Sequence[Tensor], optional): Likewise.

        Raises:
            TypeError: ``preds_S`` or ``preds_T`` is no list.
            ValueError: a list is not as long as there are levels, the loss takes no
                such argument, or a level's loss refuses what it gets.
        """
        fed = self._by_level(
            preds_S=preds_S,
            preds_T=preds_T,
            gt_labels=gt_labels,
            head_weight=head_weight,
            head_bias=head_bias,
        )
        self.hand_on()
        values = [
            weight * loss(**own)
            for weight, loss, own in zip(self.weights, self.losses, fed, strict=True)
        ]
        self.log_terms(**self._terms())
        return self.loss_weight / len(values) * torch.stack(values).sum()

    def norm_batches(
        self, inputs: Mapping[str, Any]
    ) -> list[tuple[RunningNorm, Tensor]]:
        """Return those of the losses of all levels."""
        pairs = zip(self.inner, self._by_level(**inputs), strict=True)
        return [batch for loss, own in pairs for batch in loss.norm_batches(own)]

    def warning(self, terms: dict[str, float]) -> str | None:
        """Return those of the levels, each with its number."""
        texts = []
        for level, loss in enumerate(self.inner):
            end = of_level('', level)
            own = {k.removesuffix(end): x for k, x in terms.items() if k.endswith(end)}
            if own and (text := loss.warning(own)):
                texts.append(f'level {level}: {text}')
        return ' '.join(texts) or None

    def _terms(self) -> dict[str, Tensor]:
        """Return the terms of each level, and their means over the levels.

        These are scalars, because the rows of maps would be kept until they are logged,
        once for each size of an image.
        """
        found: dict[str, Tensor] = {}
        levels: dict[str, list[Tensor]] = {}
        for level, loss in enumerate(self.inner):
            for name, term in loss.terms.items():
                found[of_level(name, level)] = term
                levels.setdefault(name, []).append(term)
        means = {name: batch_mean(torch.stack(x)) for name, x in levels.items()}
        return means | found

    def _by_level(self, **inputs: Any) -> list[dict[str, Any]]:
        """Return the arguments of each level's loss, None left out."""
        count = len(self.inner)
        fed: list[dict[str, Any]] = [{} for _ in self.inner]
        for name, value in inputs.items():
            is_list = isinstance(value, (list, tuple))
            if not is_list and name in ('preds_S', 'preds_T'):
                raise TypeError(
                    f'{name} must be a list of maps, one of each level, got '
                    f"{type(value).__name__}: write {name}=dict(recorder=['fpn0', "
                    "'fpn1'], ...) in loss_forward_mappings."
                )
            if value is None:
                continue
            parts = value if is_list else [value] * count
            if len(parts) != count:
                raise ValueError(
                    f'{name} has {len(parts)} entries, and there are {count} levels: '
                    'name one recorder of each level in loss_forward_mappings, or '
                    'correct levels.'
                )
            for level, (own, part) in enumerate(zip(fed, parts, strict=True)):
                if name not in arguments_of(self.losses[level]):
                    raise ValueError(
                        f'{name} is mapped, and {self.inner[level].class_name} of '
                        f'level {level} has no such argument: leave {name} out of '
                        'loss_forward_mappings.'
                    )
                own[name] = part
        return fed


def _of_each_level(loss: Any, levels: int | None) -> list:
    """Return the config of the loss of each level."""
    if levels is not None and not is_count(levels):
        problem, remedy = 'It counts the levels.', 'Write 5, say, or leave it out.'
        raise ValueError(describe('levels', levels, problem, remedy))
    if isinstance(loss, (list, tuple)):
        if not loss or len(loss) != (levels or len(loss)):
            problem = f'loss has {len(loss)} entries, one for each level.'
            remedy = 'Leave levels out, or write a config for each level.'
            raise ValueError(describe('levels', levels, problem, remedy))
        return list(loss)
    if isinstance(loss, nn.Module):
        problem = 'Each level has a loss of its own, and this is one loss.'
        remedy = "Write its config, dict(type='CAKDFeatureLoss') say, or a list."
        raise ValueError(describe('loss', type(loss).__name__, problem, remedy))
    if levels is None:
        problem = 'Their number is not known, because no lists of as many recorders '
        problem += 'are mapped to preds_S and preds_T.'
        remedy = 'Write levels=5, say, or a list of configs as loss.'
        raise ValueError(describe('levels', levels, problem, remedy))
    return [loss] * levels
