"""The scores of maps as rows, all at once or part by part."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .once import once_only


@dataclass(frozen=True)
class Places:
    """Which rows of a map are compared.

    A map (N, A * K, H, W) holds K scores of each of A anchors at each position. It has
    N * H * W * A rows, (K,) each. Those of a position follow each other, and so do the
    positions of an image.

    Attributes:
        classes: K.
        count: How many rows are compared.
        index: Their numbers, int64 (count,); None for all rows.
    """

    classes: int
    count: int
    index: Tensor | None

    def all_rows(self, maps: Tensor) -> Tensor:
        """Return the rows, (count, K). The gradient goes on to the map."""
        rows = _in_order(maps, self.classes).reshape(-1, self.classes)
        return rows if self.index is None else rows.index_select(0, self.index)

    def parts(self, scores: int) -> Iterator[slice]:
        """Yield ranges of rows with at most so many scores, but one row at least."""
        step = max(scores // self.classes, 1)
        for start in range(0, self.count, step):
            yield slice(start, min(start + step, self.count))

    def rows(self, maps: Tensor, part: slice) -> Tensor:
        """Return a range of the rows, without a gradient, and copy nothing else."""
        return _in_order(maps.detach(), self.classes)[self._where(maps, part)]

    def put(self, maps: Tensor, part: slice, rows: Tensor) -> None:
        """Write a range of the rows into a contiguous map, in place."""
        _in_order(maps, self.classes)[self._where(maps, part)] = rows

    def _where(self, maps: Tensor, part: slice) -> tuple[Tensor, ...]:
        """Return the image, the position and the anchor of each row of a range."""
        if self.index is None:
            index = torch.arange(part.start, part.stop, device=maps.device)
        else:
            index = self.index[part]
        anchors = maps.shape[1] // self.classes
        cell = index.div(anchors, rounding_mode='floor')
        positions = maps.shape[2] * maps.shape[3]
        image = cell.div(positions, rounding_mode='floor')
        return image, cell - image * positions, index - cell * anchors


def _in_order(maps: Tensor, classes: int) -> Tensor:
    """Return maps (N, A * K, H, W) as (N, H * W, A, K), of the same memory."""
    return maps.flatten(2).unflatten(1, (-1, classes)).permute(0, 3, 1, 2)


def label_rows(labels: Tensor, anchors: int) -> Tensor:
    """Return the label of each row, int64, in the order of :class:`Places`.

    ``labels``, (N, 1 or A, H, W), are one for all anchors of a position or one of each.
    """
    labels = labels.expand(-1, anchors, -1, -1)
    return labels.permute(0, 2, 3, 1).flatten().long()


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a map of labels, (N, B, h, w), to a size: each place takes the nearest.

    It is what PyTorch calls ``nearest-exact``, which has no integers. Of two that are
    as near, the lower and the right one is taken.
    """
    for dim, wanted in zip((2, 3), size, strict=True):
        here = labels.shape[dim]
        if here != wanted:
            # The middle of a place is half a place behind its number.
            doubled = 2 * torch.arange(wanted, device=labels.device) + 1
            index = (doubled * here).div(2 * wanted, rounding_mode='floor')
            labels = labels.index_select(dim, index)
    return labels


def bilinear(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a map of scores, (N, C, H, W), to a size, without aligned corners."""
    if tuple(scores.shape[2:]) == size:
        return scores
    if scores.dtype != torch.float64:
        scores = scores.float()
    return F.interpolate(scores, size, mode='bilinear', align_corners=False)


def mean_by_parts(
    compute: Callable[[Tensor, Tensor, slice], Tensor],
    preds_S: Tensor,
    preds_T: Tensor,
    places: Places,
    scores: int,
    log: Callable[[float], None],
    parameters: Sequence[Tensor] = (),
) -> Tensor:
    """Return the mean over rows of maps, computed part by part.

    Of each part nothing is kept: the backward pass computes it again. What is needed
    beside the maps is the student's gradient and what one part takes.

    Args:
        compute (Callable): Returns the mean over the rows of a part, a scalar, from
            those of the student and of the teacher, (m, K) each, and their range. It
            gives the same whenever it is called.
        preds_S (Tensor): The student's scores, (N, A * K, H, W).
        preds_T (Tensor): The teacher's, of the same shape; get no gradient.
        places (Places): Which rows are compared, at least one.
        scores (int): How many scores of a net are in a part at most.
        log (Callable): Called after each part of the forward pass alone, with the
            share of all rows that the part has.
        parameters (Sequence[Tensor]): What else ``compute`` differentiates by.
            Defaults to nothing.
    """
    rest = compute, places, scores, log
    return _MeanByParts.apply(preds_S, preds_T, *rest, *parameters)


class _MeanByParts(torch.autograd.Function):
    """A mean whose parts are computed again for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        preds_S: Tensor,
        preds_T: Tensor,
        compute: Callable[[Tensor, Tensor, slice], Tensor],
        places: Places,
        scores: int,
        log: Callable[[float], None],
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(preds_S, preds_T, *parameters)
        ctx.rest = compute, places, scores
        values = []
        for part in places.parts(scores):
            rows = places.rows(preds_S, part), places.rows(preds_T, part)
            share = _share(places, part)
            values.append(share * compute(*rows, part))
            log(share)
        return torch.stack(values).sum()

    @staticmethod
    @once_only
    def backward(ctx: Any, grad_mean: Tensor) -> tuple[Tensor | None, ...]:
        preds_S, preds_T, *parameters = ctx.saved_tensors
        compute, places, scores = ctx.rest
        slope = torch.zeros_like(preds_S, memory_format=torch.contiguous_format)
        totals: list[Tensor | None] = [None] * len(parameters)
        for part in places.parts(scores):
            with torch.enable_grad():
                rows_S = places.rows(preds_S, part).requires_grad_()
                value = compute(rows_S, places.rows(preds_T, part), part)
            of_rows, *others = torch.autograd.grad(
                value,
                [rows_S, *parameters],
                (_share(places, part) * grad_mean).to(value.dtype),
                allow_unused=True,
            )
            places.put(slope, part, of_rows)
            for number, other in enumerate(others):
                total = totals[number]
                totals[number] = other if total is None else total + other
        return slope, None, None, None, None, None, *totals


def _share(places: Places, part: slice) -> float:
    """Return which share of all rows a range is."""
    return (part.stop - part.start) / places.count
