"""Several teachers that teach as one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mmengine.model import BaseModel
from mmpretrain.models import MultiLabelClsHead
from torch import Tensor, nn

from ...utils.compiling import is_compiling
from ...utils.errors import describe
from ..losses.base import in_float32
from ..taps import classes_of, gives_scores
from .named_nets import naming_net

KEY = 'model.teacher'


class AveragingHead(nn.Module):
    """Averages the scores of several teachers, with weights whose sum is 1.

    Args:
        average (str): ``'logits'`` gives their weighted mean. ``'probabilities'`` gives
            the logarithm of the weighted mean of their probabilities, so that a softmax
            makes these probabilities of it. For one teacher both differ by a number
            that all classes share, and ``'logits'`` leaves its scores as they are.
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
        """Average a list of (N, K); return (N, K), at least in float32."""
        if len(scores) == 1 and self.average == 'logits':
            return in_float32(scores[0])
        pairs = zip(self.weights, map(in_float32, scores), strict=True)
        if self.average == 'logits':
            return sum(weight * one for weight, one in pairs)  # type: ignore[return-value]
        parts = [one.log_softmax(1) + math.log(weight) for weight, one in pairs]
        return torch.stack(parts).logsumexp(0)


class TeacherEnsemble(BaseModel):
    """Several frozen teachers, each a module of its name, and the average of them.

    ``head`` gives the average of those that have a classifier, so that a recorder of
    ``head`` works as with one teacher. Features are those of a named teacher:
    ``r50.neck`` as the source of ``ModuleOutputs``, ``r50.stage3`` as that of a
    ``Tap``.

    Args:
        teachers (Mapping[str, BaseModel]): By name.
        average (str): See :class:`AveragingHead`.
        weights (Sequence[float]): One for each that has a classifier.

    Attributes:
        head (AveragingHead, optional): None if no teacher has a classifier.
        image_maps (nn.ModuleDict): What makes the batch that a teacher sees, by its
            name, where this is not the shared one.
    """

    head: AveragingHead | None

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
        scoring = {name: net for name, net in teachers.items() if gives_scores(net)}
        self._scoring = list(scoring)
        counts = {classes_of(net) for net in scoring.values()}
        count = counts.pop() if len(counts) == 1 else None
        self.head = AveragingHead(average, weights, count) if scoring else None
        self.image_maps = nn.ModuleDict()
        heads = [getattr(net, 'head', None) for net in scoring.values()]
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
            Tensor | list[DataSample] | dict: The averaged scores, (N, K), in the mode
            ``'tensor'``; predictions in the mode ``'predict'``, made as the first
            teacher with a classifier makes its own. If there is no such teacher, what
            each gives, by name.

        Raises:
            TypeError: a teacher of several with a classifier gives no tensor.
        """
        outputs = {}
        for index, (name, net) in enumerate(self.teachers.items()):
            mapped: Any = dict(self.image_maps.items()).get(name)
            own = inputs if mapped is None else mapped(inputs)
            if is_compiling():
                outputs[name] = net(own, mode='tensor')
                continue
            size = None if mapped is None else mapped.size
            with naming_net(net, f'{KEY}.{index}.net', size):
                outputs[name] = net(own, mode='tensor')
        if self.head is None:
            return outputs
        for name in self._scoring if len(self._scoring) > 1 else ():
            self._require_tensor(name, outputs[name])
        averaged = self.head([outputs[name] for name in self._scoring])
        if mode == 'predict':
            first = getattr(self, self._scoring[0])
            # A net of others makes its predictions itself.
            own = getattr(first, 'head', None) or first
            return own._get_predictions(averaged, data_samples)
        return averaged

    def _require_tensor(self, name: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            key = f'{KEY}.{self.names.index(name)}.net'
            problem = 'It gives no scores (N, K), which could be averaged.'
            remedy = "Give it a head of one output, head=dict(type='LinearClsHead')."
            raise TypeError(describe(key, type(output).__name__, problem, remedy))
