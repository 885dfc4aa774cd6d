"""A net as one function from images to one tensor of scores."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import describe, start_of
from .images import Images
from .student import Student

# How predictions are made of logits.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'softmax': partial(torch.softmax, dim=1),
    'sigmoid': torch.sigmoid,
}


def _alone(outputs: Any) -> Any:
    return outputs


def _sum(outputs: Any) -> Any:
    return sum(outputs)


def _mean(outputs: Any) -> Any:
    return sum(outputs) / len(outputs)


@dataclass(frozen=True)
class Reading:
    """How a net's own prediction reads its outputs.

    Args:
        logits (Callable): Returns logits, (N, K), of what the net gives.
        activation (str, optional): The one of :data:`ACTIVATIONS` by which the net
            predicts. None if it is another one.
    """

    logits: Callable[[Any], Tensor]
    activation: str | None


@torch.no_grad()
def reading_of(student: Student, images: Images) -> Reading:
    """Find how a net predicts, by trying what gives its predictions.

    Raises:
        ValueError: the net does not take such images, or its outputs are not scores of
            images.
    """
    net, shape = student.net, images.shape
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(2, *shape, generator=generator)
    try:
        outputs = net(batch)
    except Exception as error:  # torch's, whatever the net refuses
        problem = f'{student.kind} takes no images of {shape[1]} x {shape[2]} pixels'
        problem += f' ({start_of(error, 200)}).'
        remedy = 'Give the size of the images that it was trained with.'
        raise ValueError(describe('--size', [*shape[1:]], problem, remedy)) from error
    is_several = isinstance(outputs, (tuple, list))
    ways = (_sum, _mean) if is_several else (_alone,)
    try:
        predicted = torch.stack([x.pred_score for x in net(batch, mode='predict')])
    except Exception:  # A net of the user's own may predict in another way, or not.
        predicted = torch.empty(0)
    for logits in ways:
        for name, activation in ACTIVATIONS.items():
            if _is_equal(logits, activation, outputs, predicted):
                return Reading(logits, name)
    if isinstance(outputs, Tensor) and outputs.dim() == 2:
        return Reading(_alone, None)
    problem = f'{student.kind} gives no scores of images, one row for each, but a '
    problem += f'{type(outputs).__name__}.'
    remedy = 'Give a net with a classifier that scores one task.'
    key = 'model.head' if hasattr(net, 'head') else 'model'
    raise ValueError(describe(key, student.cfg.model.get('head'), problem, remedy))


def _is_equal(
    logits: Callable, activation: Callable, outputs: Any, predicted: Tensor
) -> bool:
    try:
        found = activation(logits(outputs))
    except (IndexError, RuntimeError, TypeError):  # features of several stages, say
        return False
    return found.shape == predicted.shape and torch.allclose(found, predicted)


class Scoring(nn.Module):
    """A net between what its file does before it and after it.

    Args:
        net (nn.Module): The net.
        reading (Reading): How its outputs are read.
        before (nn.Module, optional): From the file's images to those of the net.
        activation (str, optional): The one of :data:`ACTIVATIONS` that is applied.
            Defaults to None, which gives logits.
    """

    def __init__(
        self,
        net: nn.Module,
        reading: Reading,
        before: nn.Module | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.before = before or nn.Identity()
        self.logits = reading.logits
        self.activation = ACTIVATIONS.get(activation or '', _alone)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, (N, K), of images, (N, C, H, W)."""
        return self.activation(self.logits(self.net(self.before(images))))
