"""ReviewKD's fusion: a student's features, each joined with the deeper ones."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...utils.errors import describe
from ..checks import is_count
from .sees_teacher import SeesTeacher

Size = int | tuple[int, int] | None


@MODELS.register_module()
class FusionConnector(SeesTeacher):
    """Fuse a list of features from the deepest to the shallowest by attention.

    It has the ABF modules of "Distilling Knowledge via Knowledge Review", arXiv
    2104.09044.
    Each level is brought to ``mid_channels``. Each but the deepest is then added to the
    fused map of the next deeper level, at its own size, with two weights at each
    position. The fused map, at the size of the teacher's, goes to the next shallower
    level and, through a convolution, to the teacher's width. The connector is trained
    with the student and left behind when the student is extracted.

    In a config one mapping with a list of recorders feeds it:
    ``preds_S=dict(recorder=['s1', 's2', 's3', 'pooled'], from_student=True,
    data_idx=[None, None, None, 0], connector='fusion')``.

    Args:
        in_channels (Sequence[int]): Channels of the student's features, shallow to
            deep.
        out_channels (Sequence[int]): Channels of the teacher's.
        out_sizes (Sequence[int | tuple[int, int] | None], optional): Height and
            width of the teacher's maps. None for a map whose size is read off the
            teacher's, unless the loss takes maps of unequal sizes. The nearest
            pixels are taken. Defaults to None (all are read).
        mid_channels (int, optional): Channels of the fused maps. Defaults to None,
            those of the deepest level, at most 512.
        init_cfg (dict, optional): As in mmengine. Defaults to None: Kaiming uniform
            with a=1 for all convolutions but the attention's, which keep PyTorch's.

    Raises:
        ValueError: lists are empty, of unequal length, or hold no channel numbers.
    """

    # It takes the features of a list of recorders all at once.
    takes_list = True

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        out_sizes: Sequence[Size] | None = None,
        mid_channels: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_channels('in_channels', in_channels)
        _check_channels('out_channels', out_channels)
        count = len(in_channels)
        sizes = [None] * count if out_sizes is None else out_sizes
        for key, values in (('out_channels', out_channels), ('out_sizes', sizes)):
            if not isinstance(values, (list, tuple)) or len(values) != count:
                problem = f'in_channels={list(in_channels)} has {count} levels.'
                remedy = f'Write one entry of {key} for each, shallow to deep.'
                key = f'FusionConnector.{key}'
                raise ValueError(describe(key, values, problem, remedy))
        if mid_channels is None:
            mid_channels = min(512, in_channels[-1])
        _check_channels('mid_channels', [mid_channels])
        self.in_channels = tuple(in_channels)
        self.out_sizes = [(x, x) if isinstance(x, int) else x for x in sizes]
        self.levels = nn.ModuleList(
            FusionLevel(*widths, mid_channels, fuses=index < count - 1)
            for index, widths in enumerate(zip(in_channels, out_channels, strict=True))
        )

    def forward_train(
        self, feature: Sequence[Tensor], teacher: Any = None
    ) -> list[Tensor]:
        """Fuse the student's features.

        Args:
            feature (Sequence[Tensor]): Maps (N, C_in, H, W), shallow to deep; the
                last may be a vector (N, C_in).
            teacher (Sequence[Tensor], optional): The teacher's, whose sizes are
                read. Defaults to None.

        Returns:
            list[Tensor]: Maps (N, C_out, H', W') in the same order.

        Raises:
            TypeError: ``feature`` is no list of tensors.
            ValueError: the features have another number, shape or width.
        """
        maps = self._as_maps(feature)
        fused: Tensor | None = None
        outputs = []
        rows = zip(self.levels, maps, self._sizes(teacher), strict=True)
        for level, x, size in reversed(list(rows)):
            output, fused = level(x, fused, size)
            outputs.append(output)
        return outputs[::-1]

    def _sizes(self, teacher: Any) -> list[tuple[int, int] | None]:
        """Return the sizes that are written, or those of the teacher's maps."""
        is_list = isinstance(teacher, (list, tuple))
        if not is_list or len(teacher) != len(self.out_sizes):
            return self.out_sizes  # The loss refuses lists of unequal length.
        pairs = zip(self.out_sizes, teacher, strict=True)
        return [size or self.size_for(x) for size, x in pairs]

    def _as_maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Check the features; return them all as maps (N, C, H, W)."""
        is_list = isinstance(features, (list, tuple))
        if not is_list or not all(isinstance(x, Tensor) for x in features):
            kind = type(features).__name__
            if is_list:
                kind = f'a list of {sorted({type(x).__name__ for x in features})}'
            raise TypeError(
                f'FusionConnector got {kind}: feed it a list of tensors, '
                "recorder=['stage1', 'stage2'], with data_idx=0 for those of a module "
                'that returns a tuple.'
            )
        key, count = 'FusionConnector.in_channels', len(self.levels)
        if len(features) != count:
            problem = f'It has {count} levels and got {len(features)} features.'
            remedy = 'Write one number for each recorder, shallow to deep.'
            raise ValueError(describe(key, self.in_channels, problem, remedy))
        maps = []
        for index, feature in enumerate(features):
            shape = tuple(feature.shape)
            if feature.dim() == 2 and index == count - 1:
                feature = feature[:, :, None, None]
            if feature.dim() != 4:
                raise ValueError(
                    f'FusionConnector got a feature {index} of shape {shape}: tap maps '
                    '(N, C, H, W), shallow to deep; the last may be a vector (N, C).'
                )
            expected = self.in_channels[index]
            if shape[1] != expected:
                problem = f"The student's feature has {shape[1]} channels, {shape}."
                remedy = f'Write {shape[1]} there, or tap another module.'
                raise ValueError(describe(f'{key}[{index}]', expected, problem, remedy))
            maps.append(feature)
        return maps


class FusionLevel(nn.Module):
    """Brings a feature to the common width, fuses it and brings it to the teacher's.

    Args:
        in_channels (int): Channels of the student's feature.
        out_channels (int): Channels of the teacher's.
        mid_channels (int): Channels of the fused maps.
        fuses (bool): Whether there is a deeper level.
    """

    def __init__(
        self, in_channels: int, out_channels: int, mid_channels: int, fuses: bool
    ) -> None:
        super().__init__()
        self.reduce = _conv_norm(in_channels, mid_channels, 1)
        self.attention = nn.Conv2d(2 * mid_channels, 2, 1) if fuses else None
        self.expand = _conv_norm(mid_channels, out_channels, 3)

    def forward(
        self, x: Tensor, deeper: Tensor | None, size: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor]:
        """Fuse a feature with the deeper ones.

        Args:
            x (Tensor): The student's feature, (N, C_in, H, W).
            deeper (Tensor, optional): The fused map of the next deeper level, (N,
                C_mid, h, w); None for the deepest.
            size (tuple[int, int], optional): Height and width of the teacher's
                feature; None keeps those of ``x``.

        Returns:
            tuple[Tensor, Tensor]: The map to compare with the teacher's, (N, C_out,
            H', W'), and the fused map, (N, C_mid, H', W').
        """
        x = self.reduce(x)
        if self.attention is not None and deeper is not None:
            deeper = _nearest(deeper, x.shape[2:])
            weights = self.attention(torch.cat((x, deeper), 1)).sigmoid()
            x = x * weights[:, :1] + deeper * weights[:, 1:]
        if size is not None:
            x = _nearest(x, size)
        return self.expand(x), x


def _conv_norm(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def _nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    size = tuple(size)
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size, mode='nearest')


def _check_channels(key: str, values: Sequence[int]) -> None:
    numbers = isinstance(values, (list, tuple)) and all(map(is_count, values))
    if not numbers or not values:
        problem = 'Channels are positive integers, one for each level.'
        remedy = f'Write {key}=[64, 128, 256, 256], say, shallow to deep.'
        raise ValueError(describe(f'FusionConnector.{key}', values, problem, remedy))
