"""Several teachers that teach as one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mmengine.model import BaseModel
from mmpretrain.models import MultiLabelClsHead
from torch import Tensor, nn

from ...utils.errors import describe
from ..losses.base import in_float32

KEY = 'model.teacher'


class AveragingHead(nn.Module):
    """Averages the scores of several teachers, with weights whose sum is 1.

    Args:
        average (str): ``'logits'`` gives their weighted mean. ``'probabilities'`` gives
            the logarithm of the weighted mean of their probabilities, so that a softmax
            makes these probabilities of it. For one teacher both differ by a number
            that all classes share.
        weights (Sequence[float]): Positive, one for each teacher; their sum is made 1.
        num_classes (int, optional): How many classes all of them score. Defaults to
            None (unknown).
    """

    def __init__(
        self,
        average: Literal['logits', 'probabilities'],
        weights: Sequence[float],
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.average = average
        self.weights = [weight / sum(weights) for weight in weights]
        self.num_classes = num_classes

    @property
    def out_channels(self) -> int | None:
        """The width of what it gives."""
        return self.num_classes

    def forward(self, scores: list[Tensor]) -> Tensor:
        """Average a list of (N, K); return (N, K), at least in float32.

        Raises:
            TypeError: a teacher gives something else than a tensor.
        """
        for index, one in enumerate(scores):
            if not isinstance(one, Tensor):
                problem = 'It gives no scores (N, K), which could be averaged.'
                remedy = (
                    "Give it a head of one output, head=dict(type='LinearClsHead')."
                )
                kind = type(one).__name__
                raise TypeError(describe(f'{KEY}.{index}.net', kind, problem, remedy))
        pairs = zip(self.weights, map(in_float32, scores), strict=True)
        if self.average == 'logits':
            return sum(weight * one for weight, one in pairs)  # type: ignore[return-value]
        parts = [one.log_softmax(1) + math.log(weight) for weight, one in pairs]
        return torch.stack(parts).logsumexp(0)


class TeacherEnsemble(BaseModel):
    """Several frozen teachers, each a module of its name, and the average of them.

    ``head`` gives the average, so that a recorder of ``head`` works as with one
    teacher. Features are those of a named teacher: ``r50.neck`` as the source of
    ``ModuleOutputs``, ``r50.stage3`` as that of a ``Tap``.

    Args:
        teachers (Mapping[str, BaseModel]): By name.
        average (str): See :class:`AveragingHead`.
        weights (Sequence[float]): One for each.

    Attributes:
        image_maps (nn.ModuleDict): What makes the batch that a teacher sees, by its
            name, where this is not the shared one.
    """

    def __init__(
        self,
        teachers: Mapping[str, BaseModel],
        average: Literal['logits', 'probabilities'],
        weights: Sequence[float],
    ) -> None:
        super().__init__()
        self.names = list(teachers)
        for name, net in teachers.items():
            self.add_module(name, net)
        heads: list[Any] = [getattr(net, 'head', None) for net in teachers.values()]
        counts = {getattr(head, 'num_classes', None) for head in heads}
        self.head = AveragingHead(
            average, weights, counts.pop() if len(counts) == 1 else None
        )
        self.image_maps = nn.ModuleDict()
        several = [isinstance(head, MultiLabelClsHead) for head in heads]
        if any(several) and (average == 'probabilities' or not all(several)):
            problem = 'A teacher scores each class apart, and a softmax would compare '
            problem += 'the classes.'
            remedy = "Write 'logits', and use teachers of one kind."
            raise ValueError(
                describe('model.teacher_average', average, problem, remedy)
            )

    @property
    def teachers(self) -> dict[str, BaseModel]:
        """The teachers by name."""
        return {name: getattr(self, name) for name in self.names}

    def forward(
        self,
        inputs: Tensor,
        data_samples: list | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Run all teachers on the shared batch, (N, C, H, W).

        Returns:
            Tensor | list[DataSample]: The averaged scores, (N, K), in the mode
            ``'tensor'``; predictions in the mode ``'predict'``, made as the first
            teacher makes its own.
        """
        scores = []
        for name in self.names:
            own = self.image_maps[name](inputs) if name in self.image_maps else inputs
            scores.append(getattr(self, name)(own, mode='tensor'))
        averaged = self.head(scores)
        if mode == 'predict':
            return getattr(self, self.names[0]).head._get_predictions(
                averaged, data_samples
            )
        return averaged
