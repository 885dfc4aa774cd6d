"""NORM's feature transform, which a trained student's classifier takes in."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmpretrain.models import (
    GlobalAveragePooling,
    LinearClsHead,
    MultiLabelLinearClsHead,
)
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from ..backbones.staged_backbone import KAIMING
from ..checks import is_count


class AffineStep(nn.Module):
    """A 1x1 convolution without bias and a batch normalisation, and no activation.

    Args:
        in_channels (int): Channels of the map that it gets.
        out_channels (int): Channels of the map that it gives.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W)."""
        return self.norm(self.conv(x))

    def as_matrix(self) -> tuple[Tensor, Tensor]:
        """Return matrix and shift, float64, of what it does in evaluation."""
        norm = {name: x.double() for name, x in self.norm.state_dict().items()}
        scale = norm['weight'] / (norm['running_var'] + self.norm.eps).sqrt()
        matrix = scale[:, None] * self.conv.weight.double().flatten(1)
        return matrix, norm['bias'] - scale * norm['running_mean']


@MODELS.register_module()
class NORMNeck(BaseModule):
    r"""Widen a student's last map to N times the teacher's width, and back.

    The feature transform of "NORM: Knowledge Distillation via N-to-One Representation
    Matching", arXiv 2305.13803. With a 1x1 convolution and a batch normalisation in
    each of both steps, and without any activation, the classifier gets the average of

    .. math:: z = x + contract(expand(x))

    over the positions of the map. ``dict(type='Tap', source='neck.segments')`` records
    the widened map as N segments of the teacher's width, each of which
    :class:`NORMLoss` compares with the teacher's map.

    All of it is affine in evaluation, and so is the average. Therefore it goes into the
    weight and the bias of the linear classifier behind it when the student is
    extracted. The extracted student has a ``GlobalAveragePooling`` in its place, no
    further weights, and the same scores up to rounding. A student whose head is not
    linear keeps its neck.

    Args:
        in_channels (int): Channels of the student's last map.
        teacher_channels (int): Channels of the teacher's last map.
        segments (int): N, from 1. Defaults to 8.
        init_cfg (dict | list, optional): As in mmengine. Defaults to None: Kaiming
            normal (fan out) for convolutions, 1 and 0 for normalisation.

    Raises:
        ValueError: a number is no positive integer.
    """

    def __init__(
        self,
        in_channels: int,
        teacher_channels: int,
        segments: int = 8,
        init_cfg: dict | list | None = None,
    ) -> None:
        numbers = dict(
            in_channels=in_channels,
            teacher_channels=teacher_channels,
            segments=segments,
        )
        for name, value in numbers.items():
            if not is_count(value):
                key, problem = f'NORMNeck.{name}', 'It is a positive integer.'
                raise ValueError(describe(key, value, problem, f'Write {name}=8, say.'))
        super().__init__(init_cfg or list(KAIMING))
        width = segments * teacher_channels
        self.expand = AffineStep(in_channels, width)
        self.segments = nn.Unflatten(1, (segments, teacher_channels))
        self.contract = AffineStep(width, in_channels)
        self.pool = GlobalAveragePooling()

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Transform the last map and pool.

        Args:
            inputs (Tensor | Sequence[Tensor]): Maps (N, C, H, W), shallow to deep, or
                the last one alone.

        Returns:
            Tensor | tuple[Tensor, ...]: The averages of the maps, (N, C); that of the
            last one comes after the transform.

        Raises:
            ValueError: the last map has not ``in_channels`` channels.
        """
        if isinstance(inputs, Tensor):
            return self.pool(self._transformed(inputs))
        *earlier, last = inputs
        return self.pool((*earlier, self._transformed(last)))

    def _transformed(self, x: Tensor) -> Tensor:
        width = self.expand.conv.in_channels
        if x.shape[1] != width:
            key, problem = 'NORMNeck.in_channels', f'The last map has {x.shape[1]}.'
            remedy = f'Write in_channels={x.shape[1]} in model.architecture.neck.'
            raise ValueError(describe(key, width, problem, remedy))
        segments = self.segments(self.expand(x))
        return x + self.contract(segments.flatten(1, 2))

    @torch.no_grad()
    def folded_into(self, head: nn.Module) -> tuple[dict, dict[str, Tensor]] | None:
        """Return what takes the place of neck and head in evaluation.

        Args:
            head (nn.Module): The trained head behind this neck. It is not changed.

        Returns:
            tuple[dict, dict[str, Tensor]] | None: The config of a neck without weights,
            and the head's weights by name. None if the head is not linear.
        """
        if not isinstance(head, (LinearClsHead, MultiLabelLinearClsHead)):
            return None
        widen, shift = self.expand.as_matrix()
        narrow, offset = self.contract.as_matrix()
        both = torch.eye(len(narrow)).to(narrow) + narrow @ widen
        constant = narrow @ shift + offset
        weight, bias = head.fc.weight.double(), head.fc.bias.double()
        weights = dict(weight=weight @ both, bias=bias + weight @ constant)
        own = {f'fc.{name}': x.to(head.fc.weight.dtype) for name, x in weights.items()}
        return dict(type='GlobalAveragePooling'), {**head.state_dict(), **own}
